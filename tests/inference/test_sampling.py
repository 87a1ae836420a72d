"""Sampling: the distribution that is drawn from, and what a row's text depends on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from lively_models import make_lively, pad, random_prompt, random_rows, row_prompts

from softprompt_jax.errors import UserError
from softprompt_jax.inference.decoding import generate
from softprompt_jax.inference.sampling import Sampler, check_sampling, keep_likeliest, row_keys
from softprompt_jax.models import load_model

LOGITS = np.random.default_rng(0).normal(0, 2, (5, 40)).astype(np.float32)
FILTERS = [(None, None), (3, None), (None, 0.7), (6, 0.7), (40, 1.0), (1, None), (None, 1e-6)]
INPUTS = random_rows((9, 3, 6, 5))
PROMPTS = [random_prompt(n, seed) for seed, n in enumerate((6, 2, 4, 6))]
NEW = 6


def filtered(logits, top_k, top_p) -> np.ndarray:
    """Probabilities as transformers' TopKLogitsWarper and then TopPLogitsWarper leave them."""
    logits = logits.astype(np.float64)
    if top_k is not None:
        logits[logits < np.sort(logits, axis=-1)[:, -top_k][:, None]] = -np.inf
    if top_p is not None:
        ascending = np.argsort(logits, axis=-1)
        probabilities = np.exp(np.take_along_axis(logits, ascending, axis=-1))
        cumulative = np.cumsum(probabilities / probabilities.sum(-1, keepdims=True), axis=-1)
        remove = cumulative <= 1 - top_p
        remove[:, -1] = False
        for row, (order, unwanted) in enumerate(zip(ascending, remove, strict=True)):
            logits[row, order[unwanted]] = -np.inf
    weights = np.exp(logits)
    return weights / weights.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize(("top_k", "top_p"), FILTERS)
def test_what_is_kept(top_k, top_p):
    expected = filtered(LOGITS.copy(), top_k, top_p)
    kept = jax.nn.softmax(keep_likeliest(jnp.asarray(LOGITS), top_k, top_p))
    np.testing.assert_allclose(kept, expected, atol=1e-6)
    np.testing.assert_array_equal(np.asarray(kept) == 0, expected == 0)


@pytest.mark.parametrize("temperature", [1e-8, 1e-30])
def test_a_small_temperature_draws_the_likeliest(temperature):
    logits = jnp.linspace(-20, -30, 40, dtype=jnp.float32)[None]
    keys = row_keys(0, jnp.arange(1, dtype=jnp.int32))
    for top_k, top_p in ((1, None), (3, None), (None, 0.5), (None, None)):
        sampler = Sampler(keys, temperature, top_k, top_p)
        assert sampler(logits, jnp.asarray(0, jnp.int32)).tolist() == [0]


@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (6, 0.9)])
def test_frequencies(top_k, top_p):
    """20,000 draws have the distribution's frequencies, within four standard deviations."""
    draws, temperature = 20_000, 1.5
    logits = jnp.broadcast_to(jnp.asarray(LOGITS[0])[None], (draws, 40))
    keys = row_keys(7, jnp.arange(draws, dtype=jnp.int32))
    sampler = Sampler(keys, temperature, top_k, top_p)
    tokens = np.asarray(jax.jit(lambda s, x: s(x, jnp.asarray(3, jnp.int32)))(sampler, logits))
    expected = filtered(LOGITS[:1] / np.float32(temperature), top_k, top_p)[0]
    frequencies = np.bincount(tokens, minlength=40) / draws
    bound = 4 * np.sqrt(expected * (1 - expected) / draws)
    assert (np.abs(frequencies - expected) <= bound + 1e-9).all()
    # Another step has draws of its own.
    other = np.asarray(sampler(logits, jnp.asarray(4, jnp.int32)))
    assert (other == tokens).mean() < 0.9


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_model(str(make_lively(tmp_path_factory.mktemp("model"), "gpt2")))


def sample(model, rows, width, seed=0, temperature=1.2, devices=1) -> np.ndarray:
    """The texts of rows of INPUTS, by their numbers."""
    inputs, mask = pad([INPUTS[row] for row in rows], width=width)
    prompts = row_prompts([PROMPTS[row] for row in rows])
    graphdef, state = nnx.split(model.module)

    def run(state, inputs, mask, prompts, ids, seed, temperature):
        sampler = Sampler(row_keys(seed, ids), temperature, 20, 0.95)
        batch = {"inputs": inputs, "input_mask": mask}
        return generate(nnx.merge(graphdef, state), batch, prompts, NEW, sampler)

    ids = np.asarray(rows, np.int32)
    row_arguments = (inputs, mask, prompts, ids)
    if devices == 1:
        return np.asarray(jax.jit(run)(state, *row_arguments, seed, temperature))
    shared = jax.tree.map(lambda x: x.reshape(devices, -1, *x.shape[1:]), row_arguments)
    mapped = jax.pmap(run, in_axes=(None, 0, 0, 0, 0, None, None), devices=jax.devices()[:devices])
    return np.asarray(mapped(state, *shared, seed, temperature)).reshape(len(rows), NEW)


def test_a_rows_text_is_its_own(model):
    """Whatever its neighbours, its place, the padding and the devices."""
    whole = sample(model, [0, 1, 2, 3], 11)
    assert len({tuple(row) for row in whole.tolist()}) == 4
    np.testing.assert_array_equal(sample(model, [0, 1, 2, 3], 11), whole)
    np.testing.assert_array_equal(sample(model, [2, 0], 9), whole[[2, 0]])
    np.testing.assert_array_equal(sample(model, [3, 2, 1, 0], 13, devices=4), whole[::-1])
    assert (sample(model, [0, 1, 2, 3], 11, seed=1) != whole).any(axis=1).all()


def test_equal_rows_with_other_numbers_differ(model):
    inputs, mask = pad([INPUTS[0]] * 3, width=9)
    batch = {"inputs": inputs, "input_mask": mask}
    sampler = Sampler(row_keys(0, jnp.arange(3, dtype=jnp.int32)))
    texts = np.asarray(generate(model.module, batch, jnp.asarray(PROMPTS[0]), NEW, sampler))
    assert len({tuple(row) for row in texts.tolist()}) == 3
    # As the temperature goes to zero, or with one token to choose from, sampling is greedy.
    greedy = np.asarray(generate(model.module, batch, jnp.asarray(PROMPTS[0]), NEW))
    for cold in ({"temperature": 1e-4}, {"top_k": 1}):
        frozen = dataclasses.replace(sampler, **cold)
        texts = generate(model.module, batch, jnp.asarray(PROMPTS[0]), NEW, frozen)
        np.testing.assert_array_equal(texts, greedy)


def test_settings_that_cannot_be():
    check_sampling(0.5, 1, 1.0)
    check_sampling(1.0, None, None)
    for settings, message in (
        ((0.0, None, None), "temperature is 0.0"),
        ((float("nan"), None, None), "temperature is nan"),
        ((1.0, 0, None), "top_k is 0"),
        ((1.0, None, 0.0), "top_p is 0.0"),
        ((1.0, None, 1.5), "top_p is 1.5"),
    ):
        with pytest.raises(UserError, match=message):
            check_sampling(*settings)
