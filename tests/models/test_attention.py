"""Every way to compute attention gives the same, forwards and backwards."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from softprompt_jax.models import attention
from softprompt_jax.models.attention import attend, causal_bias, padding_bias


def draw(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def everything(method, groups, trained_bias):
    """The output and the gradient of every argument of one attention of 4 heads."""
    q, k, v = draw(0, 3, 4, 5, 8), draw(1, 3, groups, 6, 8), draw(2, 3, groups, 6, 8)
    slope = draw(3, 3, 5, 32)
    mask = np.arange(6)[None, :] < np.asarray([[6], [2], [0]])  # the last row sees nothing at all
    bias = draw(4, 1, 4, 5, 6)

    def loss(q, k, v, bias):
        biases = (bias, causal_bias(5, 1), padding_bias(jnp.asarray(mask)))
        return jnp.sum(slope * attend(q, k, v, biases, scale=0.4, method=method))

    wanted = (0, 1, 2, 3) if trained_bias else (0, 1, 2)
    value, gradients = jax.jit(jax.value_and_grad(loss, wanted))(q, k, v, bias)
    return [value, *gradients]


@pytest.mark.parametrize("method", ["recompute", "by_row"])
@pytest.mark.parametrize("groups", [4, 2, 1])
@pytest.mark.parametrize("trained_bias", [False, True])
def test_methods_agree(monkeypatch, method, groups, trained_bias):
    monkeypatch.setattr(attention, "_WORTH_A_LOOP", 0)
    plain = everything("plain", groups, trained_bias)
    for ours, expected in zip(everything(method, groups, trained_bias), plain, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=2e-6)


def test_rows_are_computed_one_by_one(monkeypatch):
    """Scores of the whole batch exist nowhere."""
    monkeypatch.setattr(attention, "_WORTH_A_LOOP", 0)
    q, k, v = (draw(i, 16, 2, 256, 64) for i in range(3))

    def temporary(method):
        def loss(q, k, v):
            return jnp.sum(attend(q, k, v, (), method=method) ** 2)

        compiled = jax.jit(jax.grad(loss, (0, 1, 2))).lower(q, k, v).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    scores = 4 * 16 * 2 * 256 * 256
    assert temporary("plain") > 2 * scores
    assert temporary("by_row") < scores


def test_bfloat16_by_row(monkeypatch):
    monkeypatch.setattr(attention, "_WORTH_A_LOOP", 0)
    q, k, v = (draw(i, 2, 4, 5, 8).astype(jnp.bfloat16) for i in range(3))
    bias = draw(4, 1, 4, 5, 5)
    found = [attend(q, k, v, (bias,), method=m) for m in ("plain", "by_row")]
    assert found[1].dtype == jnp.bfloat16
    np.testing.assert_allclose(*(np.asarray(x, np.float32) for x in found), atol=0.03)
