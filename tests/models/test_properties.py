"""Masks, positions and biases of any padding, against plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from softprompt_jax.models import attention
from softprompt_jax.models.attention import KeysValues
from softprompt_jax.models.language_model import prepend_prompt

# One shape each, so that every function is compiled once.
ROWS, LENGTH, KEYS, TAKEN, WIDTH, PROMPT = 3, 6, 8, 4, 2, 5


def bools(*shape):
    size = int(np.prod(shape))
    return st.lists(st.booleans(), min_size=size, max_size=size).map(
        lambda drawn: np.array(drawn).reshape(shape)
    )


def integers(least, most, *shape):
    size = int(np.prod(shape))
    return st.lists(st.integers(least, most), min_size=size, max_size=size).map(
        lambda drawn: np.array(drawn, np.int32).reshape(shape)
    )


def floats(*shape):
    """Numbers that are exact in any precision."""
    return integers(-8, 8, *shape).map(lambda drawn: (drawn / 4).astype(np.float32))


MASKS = bools(ROWS, LENGTH)
count_real = jax.jit(attention.count_real)
last_real = jax.jit(attention.last_real)
token_positions = jax.jit(attention.token_positions, static_argnums=1)
biases = jax.jit(
    lambda mask, visible, queries, keys, window: (
        attention.padding_bias(mask),
        attention.visible_bias(visible),
        attention.window_bias(queries, keys, window),
    )
)


@repeatable(100)
@given(MASKS, integers(0, 9, ROWS))
def test_positions_count_real_tokens(mask, before):
    positions = np.asarray(token_positions(mask, LENGTH, before))
    alone = np.asarray(token_positions(mask, LENGTH))
    assert positions.dtype == alone.dtype == np.int32
    for row in range(ROWS):
        seen, latest, latest_alone = 0, None, None
        for column in range(LENGTH):
            if mask[row, column]:
                latest, latest_alone = before[row] + seen, seen
                seen += 1
            # Before the first real token: the place of one that would stand before it, or 0.
            expected = max(before[row] - 1, 0) if latest is None else latest
            assert positions[row, column] == expected
            assert alone[row, column] == (latest_alone or 0)
        assert count_real(mask)[row] == seen
        real = [column for column in range(LENGTH) if mask[row, column]]
        assert last_real(mask)[row] == (real[-1] if real else LENGTH - 1)
    np.testing.assert_array_equal(
        attention.token_positions(None, LENGTH, 3), [np.arange(3, 3 + LENGTH)]
    )


@repeatable(100)
@given(
    bools(ROWS, KEYS),
    bools(ROWS, LENGTH, KEYS),
    integers(0, 9, ROWS, LENGTH),
    integers(0, 9, ROWS, KEYS),
    st.integers(1, 9),
)
def test_biases_hide_what_the_masks_say(mask, visible, queries, keys, window):
    padding, seen, near = map(np.asarray, biases(mask, visible, queries, keys, window))
    assert padding.shape == (ROWS, 1, 1, KEYS)
    assert seen.shape == near.shape == (ROWS, 1, LENGTH, KEYS)
    assert padding.dtype == seen.dtype == near.dtype == np.float32
    hidden = np.float32(attention.MASKED)
    for row in range(ROWS):
        for key in range(KEYS):
            assert padding[row, 0, 0, key] == (0 if mask[row, key] else hidden)
            for query in range(LENGTH):
                assert seen[row, 0, query, key] == (0 if visible[row, query, key] else hidden)
                far = queries[row, query] - keys[row, key] >= window
                assert near[row, 0, query, key] == (hidden if far else 0)


@pytest.mark.parametrize(("length", "before"), [(1, 0), (1, 3), (4, 0), (3, 2)])
def test_causal_bias(length, before):
    bias = np.asarray(attention.causal_bias(length, before))
    assert bias.shape == (1, 1, length, before + length)
    for query in range(length):
        for key in range(before + length):
            assert (bias[0, 0, query, key] == 0) == (key <= before + query)


def _mixed(q, k, v, mask, at):
    """Attention of the taken queries of a causal row with padding, by the module's own biases."""
    own = (attention.causal_bias(LENGTH, KEYS - LENGTH), attention.padding_bias(mask))
    taken = attention.gather_queries(own, at)
    q = jnp.take_along_axis(q, at[:, None, :, None], axis=2)
    return attention.attend(q, k, v, taken)


mixed = jax.jit(_mixed)


@repeatable(60)
@given(
    floats(ROWS, 1, LENGTH, WIDTH),
    floats(ROWS, 1, KEYS, WIDTH),
    floats(ROWS, 1, KEYS, WIDTH),
    bools(ROWS, KEYS),
    integers(0, LENGTH - 1, ROWS, TAKEN),
)
def test_attention_sees_what_is_real_and_not_later(q, k, v, mask, at):
    found = np.asarray(mixed(q, k, v, mask, at))
    for row in range(ROWS):
        for place, query in enumerate(at[row]):
            keys = [key for key in range(KEYS - LENGTH + query + 1) if mask[row, key]]
            if not keys:  # nothing to see: some mean of values, and no NaN
                assert np.isfinite(found[row, place]).all()
                continue
            scores = [float(q[row, 0, query] @ k[row, 0, key]) for key in keys]
            weights = np.exp(np.array(scores) - max(scores))
            expected = weights @ v[row, 0, keys].astype(np.float64) / weights.sum()
            np.testing.assert_allclose(found[row, place], expected, atol=1e-5)


@repeatable(60)
@given(floats(ROWS, LENGTH, WIDTH), integers(0, LENGTH - 1, ROWS, TAKEN))
def test_gathered_positions(h, at):
    found = np.asarray(attention.gather_positions(h, at))
    for row in range(ROWS):
        for place in range(TAKEN):
            np.testing.assert_array_equal(found[row, place], h[row, at[row, place]])
    assert attention.gather_positions(h, None) is h


join_keys_values = jax.jit(attention.join_keys_values)


@repeatable(60)
@given(floats(1, 1, KEYS, WIDTH), floats(ROWS, 1, TAKEN, WIDTH), st.integers(0, KEYS - TAKEN))
def test_keys_are_put_behind_or_written_over(earlier, own, column):
    shared, rows = KeysValues(earlier, earlier + 1), KeysValues(own, own - 1)
    behind = join_keys_values(shared, rows)
    every_row = KeysValues(*(np.repeat(x, ROWS, axis=0) for x in shared))
    over = join_keys_values(every_row, rows, column)
    for i in range(2):
        assert behind[i].shape == (ROWS, 1, KEYS + TAKEN, WIDTH)
        for row in range(ROWS):
            expected = [*shared[i][0, 0].tolist(), *rows[i][row, 0].tolist()]
            assert behind[i][row, 0].tolist() == expected
            expected = shared[i][0, 0].tolist()
            expected[column : column + TAKEN] = rows[i][row, 0].tolist()
            assert over[i][row, 0].tolist() == expected


prepended = jax.jit(prepend_prompt)


@repeatable(60)
@given(
    floats(ROWS, PROMPT, WIDTH),
    integers(0, PROMPT, ROWS),
    floats(ROWS, LENGTH, WIDTH),
    MASKS,
)
def test_a_prompt_stands_directly_before_the_text(vectors, prompt_lengths, x, mask):
    prompt_mask = np.arange(PROMPT)[None] >= PROMPT - prompt_lengths[:, None]
    own_x, own_mask = map(np.asarray, prepended(vectors, x, mask, prompt_mask))
    shared_x, shared_mask = map(np.asarray, prepended(vectors[0], x, mask))
    half_x, _ = prepended(vectors[0], x.astype(jnp.bfloat16), mask)
    assert half_x.dtype == jnp.bfloat16
    for row in range(ROWS):
        assert own_x[row].tolist() == [*vectors[row].tolist(), *x[row].tolist()]
        padding = [False] * int(PROMPT - prompt_lengths[row])
        real = [True] * int(prompt_lengths[row])
        assert own_mask[row].tolist() == [*padding, *real, *mask[row].tolist()]
        assert shared_x[row].tolist() == [*vectors[0].tolist(), *x[row].tolist()]
        assert shared_mask[row].tolist() == [True] * PROMPT + mask[row].tolist()
    alone_x, alone_mask = prepend_prompt(None, x, mask)
    assert alone_x is x
    assert alone_mask is mask
