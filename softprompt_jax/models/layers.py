"""The parts that the three families share: dropout, and layers with their initial values.

Shape suffixes: B batch, L length of the queries, S length of the keys, D model width, F width of
the feed-forward layer, H heads, G heads of keys and values (G divides H), K width of a head.

Modules hold parameters in one dtype and compute in the dtype of what they are given; norm
statistics and softmax are always float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from softprompt_jax.errors import UserError

ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_new": partial(jax.nn.gelu, approximate=True),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "swish": jax.nn.silu,
}
"""Activations by their names in transformers' configurations."""


def check_activation(name: str) -> str:
    """Returns the name if it is one of ACTIVATIONS, else raises a UserError that names it."""
    if name not in ACTIVATIONS:
        raise UserError(
            f"The model's activation function {name!r} is not supported: "
            f"choose a model with one of {', '.join(ACTIVATIONS)}."
        )
    return name


# --- Dropout ---------------------------------------------------------------------------------


@partial(jax.tree_util.register_dataclass, data_fields=["keys_B"], meta_fields=["rate"])
@dataclass(frozen=True)
class Dropout:
    """Dropout with one random key per row, so that a row's noise does not depend on its batch.

    Attributes:
        rate: probability in [0, 1) with which a number is set to zero; static under jit.
        keys_B: typed PRNG keys (`jax.random.key`), one per row.
    """

    rate: float
    keys_B: jax.Array  # noqa: N815 (shape suffix)

    def __call__(self, x: jax.Array, site: int | jax.Array) -> jax.Array:
        """Drops numbers of x at random and scales the rest by 1 / (1 - rate).

        Args:
            x: array whose first dimension is the batch.
            site: number of the place in the model. Equal numbers give equal noise.

        Returns:
            Array of the shape and dtype of x.
        """
        if self.rate == 0:
            return x

        def keep(key: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, site), 1 - self.rate, x.shape[1:])

        return jnp.where(jax.vmap(keep)(self.keys_B), x / (1 - self.rate), jnp.zeros_like(x))


def apply_dropout(dropout: Dropout | None, x: jax.Array, site: int | jax.Array) -> jax.Array:
    """Applies dropout at a site, or returns x when there is none."""
    return x if dropout is None else dropout(x, site)


# --- Parameters ------------------------------------------------------------------------------


def normal_param(rngs: nnx.Rngs, shape: tuple[int, ...], std: float, dtype: DTypeLike) -> nnx.Param:
    """Returns a parameter with normally distributed initial values of this standard deviation."""
    value = jax.random.normal(rngs.params(), shape, jnp.float32) * std
    return nnx.Param(value.astype(dtype))


class Linear(nnx.Module):
    """x @ kernel, plus bias if there is one. The kernel is [in, out]."""

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        std: float,
        bias: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        self.kernel = normal_param(rngs, (n_in, n_out), std, dtype)
        self.bias = nnx.Param(jnp.zeros((n_out,), dtype)) if bias else None

    def __call__(self, x_BxLxI: jax.Array) -> jax.Array:
        """[B, L, in] -> [B, L, out]."""
        y_BxLxO = x_BxLxI @ self.kernel[...]
        return y_BxLxO if self.bias is None else y_BxLxO + self.bias[...][None, None, :]


class RMSNorm(nnx.Module):
    """Scales by the root mean square over the last dimension (T5's and Llama's norm).

    References:
        Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
    """

    def __init__(self, width: int, *, epsilon: float, dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones((width,), dtype))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., width]; float32 inside, dtype of x outside."""
        x32 = x.astype(jnp.float32)
        mean_square = jnp.mean(x32 * x32, axis=-1, keepdims=True)
        scale = jnp.expand_dims(self.scale[...].astype(jnp.float32), range(x.ndim - 1))
        return (x32 * jax.lax.rsqrt(mean_square + self.epsilon) * scale).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Normalises mean and variance over the last dimension, with scale and bias (GPT-2's norm).

    References:
        Ba, Kiros and Hinton 2016, "Layer Normalization".
    """

    def __init__(self, width: int, *, epsilon: float, dtype: DTypeLike):
        self.scale = nnx.Param(jnp.ones((width,), dtype))
        self.bias = nnx.Param(jnp.zeros((width,), dtype))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises [..., width]; float32 inside, dtype of x outside."""
        x32 = x.astype(jnp.float32)
        centred = x32 - jnp.mean(x32, axis=-1, keepdims=True)
        variance = jnp.mean(centred * centred, axis=-1, keepdims=True)
        scale = jnp.expand_dims(self.scale[...].astype(jnp.float32), range(x.ndim - 1))
        bias = jnp.expand_dims(self.bias[...].astype(jnp.float32), range(x.ndim - 1))
        y = centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias
        return y.astype(x.dtype)


class MLP(nnx.Module):
    """Feed-forward layer: down(act(up(x))), or gated: down(act(gate(x)) * up(x)).

    References:
        Shazeer 2020, "GLU Variants Improve Transformer".
    """

    def __init__(
        self,
        width: int,
        hidden: int,
        *,
        activation: str,
        gated: bool,
        std_in: float,
        std_out: float,
        bias: bool = False,
        dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        inner = partial(Linear, width, hidden, std=std_in, bias=bias, dtype=dtype, rngs=rngs)
        self.gate = inner() if gated else None
        self.up = inner()
        self.down = Linear(hidden, width, std=std_out, bias=bias, dtype=dtype, rngs=rngs)
        self.activation = activation

    def __call__(
        self, x_BxLxD: jax.Array, dropout: Dropout | None = None, site: int | jax.Array = 0
    ) -> jax.Array:
        """Applies the layer; dropout, if given, acts on the hidden numbers before `down`."""
        activation = ACTIVATIONS[self.activation]
        if self.gate is None:
            h_BxLxF = activation(self.up(x_BxLxD))
        else:
            h_BxLxF = activation(self.gate(x_BxLxD)) * self.up(x_BxLxD)
        return self.down(apply_dropout(dropout, h_BxLxF, site))


def unembed(h_BxTxD: jax.Array, embedding_VxD: nnx.Param, head: Linear | None) -> jax.Array:
    """Logits, float32 [B, T, V], from a head of its own or, when that is None, from the embedding.

    The products are summed in float32 whatever the dtype of the weights.
    """
    if head is not None:
        return jnp.matmul(h_BxTxD, head.kernel[...], preferred_element_type=jnp.float32)
    return jax.lax.dot_general(
        h_BxTxD,
        embedding_VxD[...],
        (((2,), (1,)), ((), ())),
        preferred_element_type=jnp.float32,
    )
