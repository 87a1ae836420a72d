import ml_dtypes
import numpy as np
import pytest
from tiny_models import make_tiny
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from softprompt_jax.analysis import vocabulary as module
from softprompt_jax.analysis.vocabulary import Vocabulary, token_texts, unit
from softprompt_jax.models import load_model
from softprompt_jax.prompts.initializers import ordinary_ids

FAMILIES = ("t5", "llama", "gpt2")


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return {f: load_model(str(make_tiny(tmp_path_factory.mktemp(f), f))) for f in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
def test_of_a_model(loaded, family):
    model = loaded[family]
    everything, ordinary = Vocabulary.of(model), Vocabulary.of(model, special=False)
    # The embedding has rows past the tokenizer's vocabulary, which are no tokens.
    assert len(everything.ids) == len(model.tokenizer) < model.config.vocab_size
    assert ordinary.ids.tolist() == sorted(ordinary_ids(model, None).tolist())
    assert not set(ordinary.ids.tolist()) & set(model.tokenizer.all_special_ids)
    table = np.asarray(model.module.embedding[...])
    np.testing.assert_array_equal(everything.rows([3, 1]), table[[3, 1]])
    assert everything.rows([3]).dtype == np.float32
    expected = np.linalg.norm(table[: len(model.tokenizer)].astype(np.float64), axis=1).mean()
    assert everything.mean_norm() == pytest.approx(expected)
    assert everything.fingerprint == model.fingerprint


def test_texts_of_pieces(loaded):
    tokenizer = loaded["t5"].tokenizer
    ids = tokenizer.convert_tokens_to_ids(["▁movie", "x", "▁", "</s>"])
    assert token_texts(tokenizer, np.asarray(ids)) == [" movie", "x", " ", "</s>"]


def test_texts_of_bytes():
    """As in GPT-2: a space is Ġ, and a byte may be a part of a character only."""
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {piece: i for i, piece in enumerate([*alphabet, "Ġc", "Ã©"])}
    core = Tokenizer(models.BPE(vocabulary, [("Ġ", "c"), ("Ã", "©")]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    ids = [vocabulary[piece] for piece in ("Ġ", "Ġc", "c", "Ã©", "Ã")]
    assert token_texts(tokenizer, ids) == [" ", " c", "c", "é", "Ã"]


def test_blocks_cover_the_tokens_once(monkeypatch, loaded):
    vocabulary = Vocabulary.of(loaded["gpt2"], special=False)
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 32 * 7)
    blocks = list(vocabulary.blocks(queries=5))
    assert {len(ids) for ids, _ in blocks[:-1]} == {7}
    np.testing.assert_array_equal(np.concatenate([ids for ids, _ in blocks]), vocabulary.ids)
    for ids, rows in blocks:
        np.testing.assert_array_equal(rows, vocabulary.rows(ids))
    # More queries than dimensions make the blocks smaller.
    assert len(next(vocabulary.blocks(queries=32 * 7))[0]) == 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_unit(dtype):
    vectors = np.random.default_rng(0).normal(0, 30, (6, 16)).astype(dtype)
    vectors[2] = 0
    lengths = np.linalg.norm(unit(vectors.astype(np.float32)), axis=1)
    np.testing.assert_allclose(lengths, [1, 1, 0, 1, 1, 1], rtol=1e-6)
    assert unit(vectors.astype(np.float64)).dtype == np.float32


def test_unit_of_huge_vectors():
    """A prompt may have any finite float32; its squares need not be."""
    vectors = np.full((1, 4), 1e30, np.float32)
    np.testing.assert_allclose(unit(vectors), 0.5)
