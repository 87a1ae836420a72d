"""How prompt, input and target are put together, against plain loops."""

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from softprompt_jax.prompts import prompted_model
from softprompt_jax.prompts.prompted_model import OffsetPrompt

# One shape each, so that every function is compiled once.
ROWS, INPUTS, TARGETS, WIDTH = 3, 5, 4, 2


def integers(least, most, *shape):
    size = int(np.prod(shape))
    return st.lists(st.integers(least, most), min_size=size, max_size=size).map(
        lambda drawn: np.array(drawn, np.int32).reshape(shape)
    )


join = jax.jit(prompted_model.join)
add_offsets = jax.jit(prompted_model.add_offsets)


@repeatable(100)
@given(integers(1, 99, ROWS, INPUTS), integers(1, INPUTS, ROWS), integers(100, 199, ROWS, TARGETS))
def test_join_leaves_no_gap(inputs, lengths, targets):
    joined = np.asarray(join(inputs, lengths, targets))
    assert joined.shape == (ROWS, INPUTS + TARGETS - 1)
    assert joined.dtype == np.int32
    for row in range(ROWS):
        expected = [*inputs[row, : lengths[row]].tolist(), *targets[row, :-1].tolist()]
        assert joined[row, : len(expected)].tolist() == expected


@repeatable(100)
@given(
    st.sampled_from([2, INPUTS, 8]),
    integers(-8, 8, 8, WIDTH),
    integers(-8, 8, ROWS, INPUTS, WIDTH),
    integers(0, 1, ROWS, INPUTS),
)
def test_offsets_are_counted_from_the_first_real_token(count, offsets, x, mask):
    offsets, x, mask = offsets[:count] / 4, (x / 4).astype(np.float32), mask.astype(bool)
    prompt = OffsetPrompt(np.zeros((1, WIDTH), np.float32), offsets.astype(np.float32))
    found = np.asarray(add_offsets(prompt, x, mask))
    for row in range(ROWS):
        number = 0
        for column in range(INPUTS):
            own = x[row, column]
            if mask[row, column]:
                own = own + offsets[number] if number < count else own
                number += 1
            np.testing.assert_array_equal(found[row, column], own)
    # Other kinds of prompts have none.
    assert prompted_model.add_offsets(None, x, mask) is x
    assert prompted_model.add_offsets(prompt.vectors, x, mask) is x
