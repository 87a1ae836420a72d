"""Every initialiser against its definition, computed anew from the weights and the tokenizer."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny_models import WORDS, make_tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from softprompt_jax.data import encode_choices, encode_targets
from softprompt_jax.errors import UserError
from softprompt_jax.exchange import export_peft
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.prompts.initializers import ordinary_ids

FAMILIES = ("t5", "llama", "gpt2")
EMBEDDING = {
    "t5": "shared.weight",
    "llama": "model.embed_tokens.weight",
    "gpt2": "transformer.wte.weight",
}
MANY_WORDS = (*WORDS, *(f"word{i}" for i in range(5400)))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {f: make_tiny(tmp_path_factory.mktemp(f), f) for f in FAMILIES}


@pytest.fixture(scope="module")
def loaded(folders):
    return {f: load_model(str(folder)) for f, folder in folders.items()}


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A model with more than 5,000 tokens."""
    folder = make_tiny(tmp_path_factory.mktemp("large"), "t5", MANY_WORDS, d_model=8, num_layers=1)
    return load_model(str(folder))


def embeddings(folder: Path, family: str) -> np.ndarray:
    """The embedding as it is in the file."""
    names = load_file(folder / "model.safetensors")
    return names.get(EMBEDDING[family], names.get(EMBEDDING[family].split(".", 1)[1]))


def ids_of(vectors, table: np.ndarray) -> list[int]:
    """The ids whose embeddings these are; fails where a vector is none."""
    ids = []
    for vector in np.asarray(vectors):
        matches = np.flatnonzero((table == vector).all(axis=1))
        assert len(matches) == 1
        ids.append(int(matches[0]))
    return ids


# --- random_uniform --------------------------------------------------------------------------


@pytest.mark.parametrize("low_high", [(-0.5, 0.5), (0.0, 0.5)])
def test_random_uniform(loaded, low_high):
    low, high = low_high
    prompt = SoftPrompt.create(loaded["t5"], 2000, "random_uniform", uniform_range=low_high, seed=3)
    values = np.asarray(prompt.vectors)
    assert values.shape == (2000, 32)
    assert values.min() >= low
    assert values.max() < high
    # The mean and the variance of the distribution, within five standard errors.
    assert abs(values.mean() - (low + high) / 2) < 5 * (high - low) / np.sqrt(12 * values.size)
    assert abs(values.var() / ((high - low) ** 2 / 12) - 1) < 0.02


def test_the_papers_range_is_the_default(loaded):
    values = np.asarray(SoftPrompt.create(loaded["t5"], 500, "random_uniform").vectors)
    assert -0.5 <= values.min() < -0.49
    assert 0.49 < values.max() < 0.5


@pytest.mark.parametrize("low_high", [(0.5, -0.5), (0.0, 0.0), (float("nan"), 1.0)])
def test_an_empty_range(loaded, low_high):
    with pytest.raises(UserError, match="the smaller first"):
        SoftPrompt.create(loaded["t5"], 5, "random_uniform", uniform_range=low_high)


# --- sampled_vocab ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_all_draws_each_ordinary_id_once(loaded, folders, family):
    model, tokenizer = loaded[family], loaded[family].tokenizer
    pool = ordinary_ids(model, None).tolist()
    assert len(set(pool)) == len(pool)
    special = set(tokenizer.added_tokens_decoder)  # T5's sentinels among them
    assert special > set(tokenizer.all_special_ids) or family != "t5"
    for i in range(len(tokenizer)):
        # "▁" alone decodes to nothing.
        is_text = i not in special and tokenizer.convert_ids_to_tokens(i) != "▁"
        assert (i in pool) == is_text
    prompt = SoftPrompt.create(model, len(pool), "sampled_vocab", vocab="all")
    drawn = ids_of(prompt.vectors, embeddings(folders[family], family))
    assert sorted(drawn) == sorted(pool)
    assert drawn != sorted(drawn)


def test_frequent_is_the_first_5000_ordinary_ids(large):
    special = set(large.tokenizer.added_tokens_decoder)
    frequent, everything = ordinary_ids(large, 5000), ordinary_ids(large, None)
    assert frequent.dtype == np.int32
    assert frequent.tolist() == everything[:5000].tolist() == sorted(frequent.tolist())
    assert len(everything) > 5400
    assert not special & set(everything.tolist())
    assert everything.max() < len(large.tokenizer) <= large.config.vocab_size
    table = np.asarray(large.module.embedding[...])
    prompt = SoftPrompt.create(large, 4000, "sampled_vocab", seed=1)  # frequent is the default
    drawn = ids_of(prompt.vectors, table)
    assert len(set(drawn)) == 4000
    assert set(drawn) <= set(frequent.tolist())
    # Drawn from all of the pool alike: each fifth of it gives its share.
    shares = np.histogram(np.searchsorted(frequent, drawn), bins=5, range=(0, 5000))[0] / 800
    assert np.abs(shares - 1).max() < 0.1


def test_first_5000_is_by_id_alone(large):
    table = np.asarray(large.module.embedding[...])
    prompt = SoftPrompt.create(large, 5000, "sampled_vocab", vocab="first_5000")
    assert sorted(ids_of(prompt.vectors, table)) == list(range(5000))


def test_a_prompt_longer_than_the_vocabulary_repeats(loaded, folders):
    prompt = SoftPrompt.create(loaded["gpt2"], 400, "sampled_vocab")
    drawn = ids_of(prompt.vectors, embeddings(folders["gpt2"], "gpt2"))
    assert set(drawn) <= set(ordinary_ids(loaded["gpt2"], None).tolist())


def test_bytes_are_not_text():
    """Byte pieces of a SentencePiece vocabulary are the least frequent and have the first ids."""
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), *((f"<0x{byte:02X}>", 0.0) for byte in range(256)), ("▁cat", -1.0)]
    core = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")

    model = SimpleNamespace(config=SimpleNamespace(vocab_size=300), tokenizer=tokenizer)
    assert ordinary_ids(cast(Any, model), None).tolist() == [257]


def test_an_unknown_vocab(loaded):
    for init in ("sampled_vocab", "class_labels"):
        with pytest.raises(UserError, match="no vocab 'common'; choose frequent"):
            SoftPrompt.create(loaded["t5"], 5, init, vocab="common", labels=["yes"])


# --- class_labels ----------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_class_labels(loaded, folders, family):
    model = loaded[family]
    table = embeddings(folders[family], family)
    labels = ["positive", "bad", "xyz", "not good"]
    prompt = SoftPrompt.create(model, 9, labels=labels)  # the default initialiser
    tokenizer = model.tokenizer
    for position, label in enumerate(labels):
        # What the label's text is behind an input and a space: this tokenizer puts a space in front
        # of whatever begins a text, as T5's does.
        ids = tokenizer(label, add_special_tokens=False)["input_ids"]
        assert len(ids) == {"positive": 1, "bad": 1, "xyz": 4, "not good": 2}[label]
        mean = table[ids].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(prompt.vectors[position], mean, atol=1e-7)
    rest = ids_of(prompt.vectors[4:], table)
    assert set(rest) <= set(ordinary_ids(model, 5000).tolist())
    assert prompt.card["labels"] == labels


def test_labels_of_a_causal_model_follow_a_space(loaded):
    """With byte-level BPE "yes" and " yes" are two tokens; the answer is the second."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*alphabet, "ye", "yes", "Ġyes"])}
    core = Tokenizer(models.BPE(vocab, [("y", "e"), ("ye", "s"), ("Ġ", "yes")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)

    table = np.random.default_rng(0).normal(size=(300, 4)).astype(np.float32)
    model = SimpleNamespace(
        config=SimpleNamespace(eos_ids=(0,), is_encoder_decoder=False),
        module=SimpleNamespace(embed=lambda ids: jnp.asarray(table)[ids]),
        tokenizer=tokenizer,
        name="byte-level",
        fingerprint="",
    )
    assert tokenizer("yes")["input_ids"] == [vocab["yes"]]
    for label in ("yes", " yes", "yes "):
        prompt = SoftPrompt.create(cast(Any, model), 1, labels=[label])
        np.testing.assert_array_equal(prompt.vectors[0], table[vocab["Ġyes"]])


def test_labels_only(loaded):
    prompt = SoftPrompt.create(loaded["t5"], 2, labels=["positive", "negative"])
    assert prompt.length == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([], "needs a task with labels"),
        (["a", "b", "is"], "2 positions cannot start from 3 labels"),
        (["positive", ""], "The label '' has no tokens"),
    ],
)
def test_labels_that_cannot_start_a_prompt(loaded, labels, message):
    for model in loaded.values():
        with pytest.raises(UserError, match=message):
            SoftPrompt.create(model, 2, labels=labels)


@pytest.fixture(scope="module")
def t5_tokenizer(tmp_path_factory):
    """T5's own tokenizer, from a vocabulary that is kept beside the repository."""
    vocabulary = Path(__file__).parents[2].parent / "shared" / "data" / "t5.spm.model"
    if not vocabulary.is_file():
        pytest.skip("T5's vocabulary (../shared/data/t5.spm.model) is not here")
    from transformers import T5Tokenizer

    folder = tmp_path_factory.mktemp("t5_tokenizer")
    shutil.copyfile(vocabulary, folder / "spiece.model")
    return T5Tokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    ("label", "ids"),
    [
        ("True", [10998]),
        ("False", [10747, 7, 15]),
        ("entailment", [3, 35, 5756, 297]),
        ("not_entailment", [59, 834, 35, 5756, 297]),
    ],
)
def test_labels_in_t5s_own_vocabulary(t5_tokenizer, loaded, label, ids):
    """The ids of the released code (Lester et al. 2021, SuperGLUE's labels)."""
    config = loaded["t5"].config
    assert encode_targets([label], t5_tokenizer, config) == [ids]
    assert encode_choices([label], t5_tokenizer, config) == [ids]


# --- text ------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_text_is_tiled_and_cut(loaded, folders, family):
    table = embeddings(folders[family], family)
    ids = [WORDS.index(word) for word in ("the", "movie", "was", "good")]
    for length, order in ((4, [0, 1, 2, 3]), (2, [0, 1]), (7, [0, 1, 2, 3, 0, 1, 2])):
        prompt = SoftPrompt.create(loaded[family], length, "text", text="the movie was good")
        # No special tokens: </s> would end T5's, <s> begin Llama's. Words follow the special ids.
        first = {"t5": 3, "llama": 4, "gpt2": 2}[family]
        assert ids_of(prompt.vectors, table) == [first + ids[i] for i in order]


@pytest.mark.parametrize("content", [None, ""])
def test_no_text(loaded, content):
    with pytest.raises(UserError, match="has no tokens"):
        SoftPrompt.create(loaded["t5"], 4, "text", text=content)


# --- file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["folder", "npy", "npy of float64", "adapter"])
def test_file(loaded, tmp_path, kind):
    vectors = np.random.default_rng(0).normal(size=(6, 32)).astype(np.float32)
    path = tmp_path / "prompt.npy"
    if kind == "folder":
        path = tmp_path / "prompt"
        SoftPrompt(jnp.asarray(vectors), {"task": "other"}).save(path)
    elif kind == "adapter":
        path = tmp_path / "adapter"
        export_peft(SoftPrompt(jnp.asarray(vectors)), path, model=loaded["llama"])
    else:
        np.save(path, vectors.astype(np.float64) if "64" in kind else vectors)
    for given in (path, str(path)):
        prompt = SoftPrompt.create(loaded["llama"], 6, "file", file=given)
        assert prompt.vectors.dtype == jnp.float32
        np.testing.assert_array_equal(prompt.vectors, vectors)
    for length in (5, 7):
        with pytest.raises(UserError, match=rf"has shape \[6, 32\].*\[{length}, 32\]"):
            SoftPrompt.create(loaded["llama"], length, "file", file=path)


def damaged_files(folder: Path):
    """Files that are no prompt, each with what is wrong."""
    good = np.zeros((6, 32), np.float32)
    (folder / "empty.npy").write_bytes(b"")
    (folder / "text.npy").write_text("not a matrix")
    np.save(folder / "cut.npy", good)
    whole = (folder / "cut.npy").read_bytes()
    (folder / "cut.npy").write_bytes(whole[:-1])
    (folder / "header.npy").write_bytes(whole.replace(b"(6, 32), }", b"(6, 32, { "))
    (folder / "huge.npy").write_bytes(
        whole.replace(b"(6, 32), }    ", b"(99999999999, 99), }"[:14])
    )
    np.savez(folder / "several.npz", good)
    (folder / "several.npz").rename(folder / "several.npy")
    np.save(folder / "objects.npy", np.array([{"a": 1}]), allow_pickle=True)
    np.save(folder / "integers.npy", good.astype(np.int32))
    np.save(folder / "nan.npy", np.full_like(good, np.nan))
    np.save(folder / "beyond float32.npy", np.full((6, 32), 1e300))
    np.save(folder / "one row.npy", good[0])
    (folder / "folder.npy").mkdir()


def test_files_that_are_no_prompt(loaded, tmp_path):
    damaged_files(tmp_path)
    paths = [*tmp_path.iterdir(), tmp_path / "absent.npy", tmp_path / "absent", tmp_path]
    assert len(paths) == 15
    for path in paths:
        with pytest.raises(UserError) as caught:
            SoftPrompt.create(loaded["llama"], 6, "file", file=path)
        message = str(caught.value)
        assert str(path) in message
        assert "\n" not in message
        assert len(message) < 500
    with pytest.raises(UserError, match="needs a prompt folder"):
        SoftPrompt.create(loaded["llama"], 6, "file")


# --- all -------------------------------------------------------------------------------------

OPTIONS = {
    "random_uniform": {},
    "sampled_vocab": {},
    "class_labels": {"labels": ("positive", "not good")},
    "text": {"text": "the movie was good"},
}


@pytest.mark.parametrize("init", OPTIONS)
def test_float32_whatever_the_model_is(folders, init):
    model = load_model(str(folders["llama"]), "bfloat16")
    prompt = SoftPrompt.create(model, 10, init, **OPTIONS[init])
    assert prompt.vectors.dtype == jnp.float32
    assert prompt.vectors.shape == (10, 32)


@pytest.mark.parametrize("init", OPTIONS)
def test_seeds(loaded, init):
    first, again, other = (
        np.asarray(SoftPrompt.create(loaded["t5"], 10, init, seed=seed, **OPTIONS[init]).vectors)
        for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (init == "text") == np.array_equal(first, other)


def test_the_card_says_how_it_was_made(loaded):
    model = loaded["gpt2"]
    prompt = SoftPrompt.create(model, 4, labels=("positive", "negative"), seed=7)
    assert prompt.card == {
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "init": "class_labels",
        "labels": ["positive", "negative"],
        "seed": 7,
    }


def test_an_unknown_initialiser(loaded):
    with pytest.raises(UserError, match="no initialiser 'normal'; choose random_uniform"):
        SoftPrompt.create(loaded["t5"], 4, "normal")


@pytest.mark.parametrize("init", OPTIONS)
@pytest.mark.parametrize("length", [0, -1])
def test_no_positions(loaded, init, length):
    with pytest.raises(UserError, match=f"cannot have {length} positions"):
        SoftPrompt.create(loaded["t5"], length, init, **OPTIONS[init])
