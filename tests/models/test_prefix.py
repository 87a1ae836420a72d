"""Positions that all rows begin with, computed once: the same as if each row computed them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_variants import CAUSAL_VARIANTS
from torch_reference import our_module, torch_model

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
        prefix = module.prefix(prompt[None])
        h = module(module.embed(ids), mask, at_BxT=at, prefix=prefix)
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
