"""Positions that all rows begin with, computed once: the same as if each row computed them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_variants import CAUSAL_VARIANTS
from torch_reference import our_module, torch_model

from softprompt_jax.models.attention import token_positions

P, LENGTH = 9, 20  # past the sliding windows and llama3's original context


@pytest.mark.parametrize("variant", CAUSAL_VARIANTS)
def test_prefix_and_whole_rows_are_alike(variant):
    raw = CAUSAL_VARIANTS[variant]
    module = our_module(torch_model(raw), raw)
    generator = np.random.default_rng(0)
    ids = generator.integers(2, 97, (3, LENGTH)).astype(np.int32)
    prompt = 0.5 * generator.standard_normal((P, 48)).astype(np.float32)
    mask = np.ones(ids.shape, bool)
    mask[1, :4] = False  # padding between the prompt and the text
    mask[2, -5:] = False
    at = np.array([[19, 3], [7, 19], [14, 5]], np.int32)
    weights = generator.standard_normal((3, 2, 48)).astype(np.float32)

    def once(prompt):
        past = module.prefix(prompt[None])
        h = module(module.embed(ids), mask, at_BxT=at, past=past)
        return (h * weights).sum(), h

    def each_row(prompt):
        rows = jnp.broadcast_to(prompt[None], (3, P, 48))
        x = jnp.concatenate([rows, module.embed(ids)], axis=1)
        h = module(x, np.pad(mask, ((0, 0), (P, 0)), constant_values=True), at_BxT=P + at)
        return (h * weights).sum(), h

    both = jax.jit(lambda x: [jax.grad(f, has_aux=True)(x) for f in (once, each_row)])
    (gradient, h), (gradient_of_rows, h_of_rows) = both(prompt)
    np.testing.assert_allclose(h, h_of_rows, atol=2e-5)
    size = np.abs(gradient_of_rows).max()
    assert size > 1e-2
    np.testing.assert_allclose(gradient, gradient_of_rows, atol=2e-5 * size)


@pytest.mark.parametrize("variant", ["llama 3", "qwen2 with windows", "qwen3", "gpt2"])
def test_a_sequence_in_three_parts(variant):
    """Prompts of each row's own length, then text, then a token: the same as one sequence."""
    raw = CAUSAL_VARIANTS[variant]
    module = our_module(torch_model(raw), raw)
    generator = np.random.default_rng(0)
    prompts = 0.5 * generator.standard_normal((3, P, 48)).astype(np.float32)
    prompt_mask = np.arange(P)[None] >= np.array([[0], [5], [2]])
    ids = generator.integers(2, 97, (3, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH)[None] < np.array([[12], [LENGTH], [17]])
    token = generator.integers(2, 97, (3, 1)).astype(np.int32)

    def in_parts():
        past = module.prefix(prompts, prompt_mask)
        past = module.prefix(module.embed(ids), mask, past)
        room, column = 4, P + LENGTH + 1  # any free column will do
        more = ((0, 0), (0, 0), (0, room), (0, 0))
        own = np.arange(P + LENGTH + room)[None] == column
        real = jnp.pad(past.mask, ((0, 0), (0, room))) | own
        positions = token_positions(real, P + LENGTH + room)
        h, layers = module.extend(
            module.embed(token),
            jax.tree.map(lambda x: jnp.pad(x, more), past.layers),
            jnp.asarray(column, jnp.int32),
            positions_BxL=positions[:, column][:, None],
            positions_BxS=positions,
            visible_BxLxS=real[:, None],
        )
        assert layers[0].values.shape[2] == P + LENGTH + room
        return h[:, 0]

    def at_once():
        x = jnp.concatenate([prompts, module.embed(ids), module.embed(token)], axis=1)
        return module(x, np.concatenate([prompt_mask, mask, np.ones((3, 1), bool)], axis=1))[:, -1]

    parts, whole = jax.jit(lambda: (in_parts(), at_once()))()
    np.testing.assert_allclose(parts, whole, atol=1e-5)
