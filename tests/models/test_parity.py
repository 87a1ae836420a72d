"""Logits against transformers' torch models, for every variant of every family."""

import numpy as np
import pytest
from model_variants import CAUSAL_VARIANTS, T5_VARIANTS
from torch_reference import our_logits, our_module, torch_logits, torch_model

LENGTHS = (40, 23, 31)  # past the window, the largest distance and llama3's original context


def padded(side: str, lengths: tuple[int, ...]) -> np.ndarray:
    """Masks [B, max length] with padding on this side."""
    index, longest = np.arange(max(lengths)), max(lengths)
    starts = [0 if side == "right" else longest - n for n in lengths]
    return np.stack([(index >= s) & (index < s + n) for s, n in zip(starts, lengths, strict=True)])


def random_ids(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(2, 97, shape)


def assert_close(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == np.float32
    assert 1 <= np.abs(theirs).max() <= 50  # else the tolerance would mean little
    assert np.abs(ours - theirs).max() <= 1e-4


@pytest.mark.parametrize("variant", T5_VARIANTS)
def test_t5(variant):
    raw = T5_VARIANTS[variant]
    lengths = (140, 90) if variant == "default buckets" else LENGTHS
    model = torch_model(raw)
    module = our_module(model, raw)
    ids = random_ids((len(lengths), max(lengths)), 1)
    decoder_ids = random_ids((len(lengths), 25), 2)
    for mask in (padded("right", lengths), padded("left", lengths), None):
        theirs, sharpness = torch_logits(model, ids, mask, decoder_ids)
        assert sharpness > 0.1
        assert_close(our_logits(module, ids, mask, decoder_ids), theirs)


@pytest.mark.parametrize("variant", CAUSAL_VARIANTS)
def test_causal(variant):
    raw = CAUSAL_VARIANTS[variant]
    model = torch_model(raw)
    module = our_module(model, raw)
    ids = random_ids((len(LENGTHS), max(LENGTHS)), 1)
    for mask in (padded("right", LENGTHS), padded("left", LENGTHS), None):
        theirs, sharpness = torch_logits(model, ids, mask)
        assert sharpness > 0.1
        real = np.ones(ids.shape, bool) if mask is None else mask
        assert_close(our_logits(module, ids, mask)[real], theirs[real])


def test_untied_head_and_scaling_matter():
    """The reference is not blind to the head: another choice gives other logits."""
    raw = T5_VARIANTS["v1.1"]
    model = torch_model(raw)
    module = our_module(model, raw)
    ids, decoder_ids = random_ids((2, 9), 1), random_ids((2, 5), 2)
    theirs, _ = torch_logits(model, ids, None, decoder_ids)
    tied = our_module(model, raw | {"tie_word_embeddings": True})
    assert np.abs(our_logits(module, ids, None, decoder_ids) - theirs).max() <= 1e-4
    assert np.abs(our_logits(tied, ids, None, decoder_ids) - theirs).max() > 0.1
