"""Small tokenizers trained here on the package's own review sentences, and made-up examples."""

import types

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from softprompt_jax.data import TokenizedExamples
from softprompt_jax.tasks import get_task


def corpus() -> list[str]:
    task = get_task("movie_reviews")
    return [text for row in task.split("validation") for text, _ in task.text_pairs(row, False)]


@pytest.fixture(scope="session")
def byte_bpe():
    """As GPT-2's: byte-level BPE without special tokens around a text; 0 is <|endoftext|>."""
    core = tokenizers.Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*corpus(), *["positive negative good enough"] * 20], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<|endoftext|>")


def _metaspace(template: str | None) -> PreTrainedTokenizerFast:
    core = tokenizers.Tokenizer(models.Unigram())
    core.normalizer = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=800,
        special_tokens=["<pad>", "</s>", "<unk>", "<s>"],
        unk_token="<unk>",
        show_progress=False,
    )
    core.train_from_iterator([*corpus(), *["positive negative good enough"] * 20], trainer)
    if template is not None:
        core.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("</s>", 1), ("<s>", 3)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )


@pytest.fixture(scope="session")
def t5_like():
    """As T5's: unigram pieces with a space in front of each word, </s> (1) at the end."""
    return _metaspace("$A </s>")


@pytest.fixture(scope="session")
def llama_like():
    """Such pieces with <s> (3) in front, and with an </s> that a causal model must not read."""
    return _metaspace("<s> $A </s>")


@pytest.fixture
def causal():
    return types.SimpleNamespace(eos_ids=(0,), is_encoder_decoder=False)


@pytest.fixture
def causal_sp():
    return types.SimpleNamespace(eos_ids=(1,), is_encoder_decoder=False)


@pytest.fixture
def encoder_decoder():
    return types.SimpleNamespace(eos_ids=(1,), is_encoder_decoder=True)


@pytest.fixture
def make_examples():
    def make(input_lengths, target_lengths, seed=0) -> TokenizedExamples:
        generator = np.random.default_rng(seed)

        def flat(lengths):
            offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            return generator.integers(1, 1000, offsets[-1]).astype(np.int32), offsets

        return TokenizedExamples(*flat(input_lengths), *flat(target_lengths))

    return make
