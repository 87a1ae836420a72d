"""Keys and values that are kept give the logits and texts of computing everything anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from lively_models import compiled, make_lively, pad, random_prompt, random_rows

from softprompt_jax.inference.decoding import generate, next_logits, open_context
from softprompt_jax.inference.prompt_bank import (
    empty_bank,
    make_bank,
    pad_prompt,
    put_prompt,
    take_rows,
)
from softprompt_jax.models import load_model
from softprompt_jax.prompts.prompted_model import RowPrompts

VARIANTS = ("t5", "llama", "mistral", "gpt2")
INPUTS = random_rows((9, 3, 6))
FED = np.array([[50, 51, 52], [53, 54, 55], [56, 57, 58]], np.int32)
PROMPTS = [random_prompt(6), random_prompt(2, seed=1), random_prompt(4, seed=2)]
LENGTH = 8  # of the bank's places: longer than any prompt
NEW = 5


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {v: load_model(str(make_lively(tmp_path_factory.mktemp("m"), v))) for v in VARIANTS}


def padded_prompts() -> RowPrompts:
    each = [pad_prompt(prompt, LENGTH) for prompt in PROMPTS]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *each)


def with_bank(function):
    """The same, with a bank of PROMPTS of which each row takes the one at its place."""

    def answer(module, batch, places, *arguments):
        bank = make_bank(module, padded_prompts())
        return function(module, batch, take_rows(bank, places), *arguments)

    return answer


def logits_of_steps(module, batch, prompt):
    """Logits after the input and after each token of FED, from one context: [B, 4, V]."""
    first, context = open_context(module, batch, prompt, 4)
    result = []
    for step, token in enumerate([first, *FED.T]):
        seen = (np.arange(4) <= step)[None, None]
        logits, context = next_logits(
            module, context, token[:, None], jnp.asarray(step, jnp.int32), seen
        )
        result.append(logits)
    return jnp.concatenate(result, axis=1)


def logits_anew(model, row: int, prompt) -> np.ndarray:
    """The same of one row, from `LanguageModel.logits` over the whole text."""
    fed = FED[row].tolist()
    if model.is_encoder_decoder:
        start = model.config.decoder_start_id
        ids, mask = pad([INPUTS[row]], width=9)
        return np.asarray(model.logits(ids, mask, [[start, *fed]], prompt))[0]
    ids, mask = pad([INPUTS[row] + fed], width=12)
    end = len(INPUTS[row])
    return np.asarray(model.logits(ids, mask, prompt=prompt))[0, end - 1 : end + len(fed)]


def assert_same_logits(ours, theirs):
    """To 1e-5 of the largest: how the last bits round differs by processor, and with the size."""
    largest = np.abs(theirs).max()
    assert largest > 1
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * largest, rtol=0)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_steps_logits(models, variant):
    """Rows of different lengths, each with a prompt from the bank, beyond the sliding window."""
    model = models[variant]
    inputs, mask = pad(INPUTS, width=11)
    batch = {"inputs": inputs, "input_mask": mask}
    places = np.array([1, 0, 2], np.int32)
    logits = compiled(with_bank(logits_of_steps), model, batch, places)
    assert logits.dtype == np.float32
    for row, place in enumerate(places):
        assert_same_logits(logits[row], logits_anew(model, row, PROMPTS[place]))
    if model.is_encoder_decoder:
        return
    # What a prompt without keys and values in store gives, and padding on the other side.
    left, left_mask = pad(INPUTS, "left", width=11)
    for prompt in (PROMPTS[0], None):
        for x, m in ((inputs, mask), (left, left_mask)):
            other = compiled(logits_of_steps, model, {"inputs": x, "input_mask": m}, prompt)
            expected = np.stack([logits_anew(model, row, prompt) for row in range(3)])
            assert_same_logits(other, expected)


@pytest.mark.parametrize("variant", ["t5", "mistral", "gpt2"])
def test_mixed_prompts_and_one_prompt_a_batch(models, variant):
    model = models[variant]
    rows = INPUTS * 3
    places = np.repeat(np.arange(3, dtype=np.int32), 3)
    inputs, mask = pad(rows, width=11)
    batch = {"inputs": inputs, "input_mask": mask}
    generate_new = with_bank(lambda module, *args: generate(module, *args, NEW))
    mixed = compiled(generate_new, model, batch, places)
    assert len({tuple(row) for row in mixed.tolist()}) > 6
    single = lambda module, *args: generate(module, *args, NEW)  # noqa: E731
    for place, prompt in enumerate(PROMPTS):
        alone = compiled(single, model, batch, prompt)
        own = places == place
        np.testing.assert_array_equal(mixed[own], alone[own])


@pytest.mark.parametrize("variant", ["t5", "gpt2"])
def test_prompts_come_and_go_without_compiling(models, variant):
    model = models[variant]
    graphdef, state = nnx.split(model.module)
    inputs, mask = pad(INPUTS, width=11)
    batch = {"inputs": inputs, "input_mask": mask}
    traced = []

    @jax.jit
    def answer(state, bank, places):
        traced.append("answer")
        return generate(nnx.merge(graphdef, state), batch, take_rows(bank, places), NEW)

    @jax.jit
    def put(state, bank, place, vectors, real):
        traced.append("put")
        one = make_bank(nnx.merge(graphdef, state), RowPrompts(vectors, real))
        return put_prompt(bank, place, one)

    bank = empty_bank(model.module, 2, LENGTH)
    places = np.array([1, 0, 1], np.int32)
    plain = compiled(lambda m, *args: generate(m, *args, NEW), model, batch, None)
    # An empty place is no prompt at all.
    np.testing.assert_array_equal(answer(state, bank, places), plain)
    texts = []
    for first, second in ((0, 1), (2, 1), (0, 1)):
        for place, prompt in enumerate((first, second)):
            one = pad_prompt(PROMPTS[prompt], LENGTH)
            bank = put(state, bank, np.int32(place), *one)
        texts.append(np.asarray(answer(state, bank, places)))
    assert traced == ["answer", "put"]
    np.testing.assert_array_equal(texts[0], texts[2])
    np.testing.assert_array_equal(texts[0][[0, 2]], texts[1][[0, 2]])  # their prompt stayed
    assert (texts[0][1] != texts[1][1]).any()
    expected = compiled(lambda m, *args: generate(m, *args, NEW), model, batch, PROMPTS[0])
    np.testing.assert_array_equal(texts[0][1], expected[1])


@pytest.mark.parametrize("variant", VARIANTS)
def test_bfloat16(models, variant):
    """Within its rounding of float32."""
    inputs, mask = pad(INPUTS, width=11)
    batch = {"inputs": inputs, "input_mask": mask}
    model = models[variant]
    places = np.array([1, 0, 2], np.int32)

    def half(module, *arguments):
        graphdef, state = nnx.split(module)
        state = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state)
        return with_bank(logits_of_steps)(nnx.merge(graphdef, state), *arguments)

    expected = compiled(with_bank(logits_of_steps), model, batch, places)
    logits = compiled(half, model, batch, places)
    assert logits.dtype == np.float32
    difference = np.abs(logits - expected)
    assert 0 < difference.max() < 0.1 * np.abs(expected).max()


def test_a_bank_is_keys_and_values_in_the_models_dtype(models):
    module = models["mistral"].module
    bank = empty_bank(module, 3, LENGTH)
    shapes = {(leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(bank)}
    assert shapes == {((3, 2, LENGTH, 8), "float32"), ((3, LENGTH), "bool")}
    t5 = empty_bank(models["t5"].module, 3, LENGTH)
    assert t5.vectors.shape == (3, LENGTH, 32)
