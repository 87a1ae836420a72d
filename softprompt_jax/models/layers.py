"""The parts that the three families share: parameters with their initial values, and attention.

Shape suffixes: B batch, L length of the queries, S length of the keys, D model width, F width of
the feed-forward layer, H heads, G heads of keys and values (G divides H), K width of a head.

Modules hold parameters in one dtype and compute in the dtype of what they are given; norm
statistics and softmax are always float32.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from softprompt_jax.errors import UserError

MASKED = -1e9
"""Added to a score that must get no weight. Finite, so that a row without any key gives no NaN."""

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
        rate: Probability in [0, 1) with which a number is set to zero; static under jit.
        keys_B: Typed PRNG keys (`jax.random.key`), one per row.
    """

    rate: float
    keys_B: jax.Array  # noqa: N815 (shape suffix)

    def __call__(self, x: jax.Array, site: int) -> jax.Array:
        """Drops numbers of x at random and scales the rest by 1 / (1 - rate).

        Args:
            x: Array whose first dimension is the batch.
            site: Number of the place in the model. Equal numbers give equal noise.

        Returns:
            Array of the shape and dtype of x.
        """
        if self.rate == 0:
            return x

        def keep(key: jax.Array) -> jax.Array:
            return jax.random.bernoulli(jax.random.fold_in(key, site), 1 - self.rate, x.shape[1:])

        return jnp.where(jax.vmap(keep)(self.keys_B), x / (1 - self.rate), jnp.zeros_like(x))


def apply_dropout(dropout: Dropout | None, x: jax.Array, site: int) -> jax.Array:
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
        self, x_BxLxD: jax.Array, dropout: Dropout | None = None, site: int = 0
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


# --- Attention -------------------------------------------------------------------------------


def split_heads(x_BxLxE: jax.Array, n_heads: int) -> jax.Array:
    """[B, L, H*K] -> [B, H, L, K]."""
    batch, length, width = x_BxLxE.shape
    return x_BxLxE.reshape(batch, length, n_heads, width // n_heads).transpose(0, 2, 1, 3)


def attend(
    q_BxHxLxK: jax.Array,
    k_BxGxSxK: jax.Array,
    v_BxGxSxK: jax.Array,
    biases: tuple[jax.Array, ...],
    *,
    scale: float = 1.0,
    dropout: Dropout | None = None,
    site: int = 0,
) -> jax.Array:
    """Attention; with fewer heads of keys than of queries, each serves H / G neighbouring queries.

    Args:
        q_BxHxLxK: Queries.
        k_BxGxSxK: Keys.
        v_BxGxSxK: Values.
        biases: Arrays of four dimensions that broadcast to [B, H, L, S], float32, added to the
            scores one after the other. They stay apart because their sum would be as large as the
            scores themselves, while each is small.
        scale: Factor of the queries.
        dropout: Dropout of the attention weights.
        site: Its site.

    Returns:
        [B, L, H*K] in the dtype of v.
    """
    batch, n_heads, n_queries, width = q_BxHxLxK.shape
    _, n_groups, n_keys, _ = k_BxGxSxK.shape
    if scale != 1.0:
        q_BxHxLxK = q_BxHxLxK * scale
    # The queries of one group are stacked, so that keys and values need no copies per head.
    rows = n_heads // n_groups * n_queries
    scores = jnp.matmul(
        q_BxHxLxK.reshape(batch, n_groups, rows, width),
        k_BxGxSxK.swapaxes(-1, -2),
        preferred_element_type=jnp.float32,
    ).reshape(batch, n_heads, n_queries, n_keys)
    for bias in biases:
        scores = scores + bias
    weights = apply_dropout(dropout, jax.nn.softmax(scores, axis=-1), site)
    weights = weights.astype(v_BxGxSxK.dtype).reshape(batch, n_groups, rows, n_keys)
    mixed_BxHxLxK = (weights @ v_BxGxSxK).reshape(batch, n_heads, n_queries, width)
    return mixed_BxHxLxK.transpose(0, 2, 1, 3).reshape(batch, n_queries, n_heads * width)


class KeysValues(NamedTuple):
    """Keys and values of one layer's attention.

    Attributes:
        keys: [B, G, S, K], their positions applied where that is done to keys.
        values: [B, G, S, K].
    """

    keys: jax.Array
    values: jax.Array


class Past(NamedTuple):
    """What a causal model has of M positions that stand before those it is given.

    Attributes:
        layers: Each layer's keys and values, [B, G, M, K]; B is 1 where all rows share them.
        mask: bool [B, M], False at padding, wherever that stands; None means all are real.
    """

    layers: list[KeysValues]
    mask: jax.Array | None


def join_keys_values(
    earlier: KeysValues | None, own: KeysValues, column: jax.Array | None = None
) -> KeysValues:
    """The keys and values that L queries may see: earlier ones and their own.

    Args:
        earlier: [B, G, M, K] or [1, G, M, K], or None.
        own: [B, G, L, K].
        column: None: own ones are put after the earlier ones, [B, G, M+L, K]. Else they overwrite
            the L columns from this one on, [B, G, M, K], which under jit happens in place.
    """
    if earlier is None:
        return own

    def join(earlier: jax.Array, own: jax.Array) -> jax.Array:
        if column is not None:
            return jax.lax.dynamic_update_slice_in_dim(earlier, own, column, axis=2)
        rows = jnp.broadcast_to(earlier, (own.shape[0], *earlier.shape[1:]))
        return jnp.concatenate([rows, own], axis=2)

    return KeysValues(join(earlier.keys, own.keys), join(earlier.values, own.values))


def count_real(mask_BxL: jax.Array) -> jax.Array:
    """Number of real tokens of each row, int32 [B]."""
    return jnp.sum(mask_BxL, axis=1, dtype=jnp.int32)


def last_real(mask_BxL: jax.Array) -> jax.Array:
    """Index of each row's last real token, int32 [B]; of the last one where there is none."""
    from_the_end_B = jnp.argmax(mask_BxL[:, ::-1], axis=1).astype(jnp.int32)
    return mask_BxL.shape[1] - 1 - from_the_end_B


def token_positions(
    mask_BxL: jax.Array | None, length: int, before: int | jax.Array = 0
) -> jax.Array:
    """Positions among the real tokens, int32 [B, L]; [1, L] without a mask.

    A masked position gets that of the last real token before it, or 0. So many positions (one
    number, or one a row, [B]) stand before all of them.
    """
    first = before if isinstance(before, int) else before[:, None]
    if mask_BxL is None:
        return jnp.arange(length, dtype=jnp.int32)[None, :] + first
    return jnp.maximum(first + jnp.cumsum(mask_BxL, axis=1, dtype=jnp.int32) - 1, 0)


def padding_bias(mask_BxS: jax.Array) -> jax.Array:
    """Bias [B, 1, 1, S] that hides the keys whose mask is False."""
    return jnp.where(mask_BxS, 0.0, MASKED).astype(jnp.float32)[:, None, None, :]


def causal_bias(length: int, before: int = 0) -> jax.Array:
    """Bias [1, 1, L, M+L] that hides the keys after each query, none of M before all of them."""
    query_L, key_S = jnp.arange(before, before + length), jnp.arange(before + length)
    return visible_bias((query_L[:, None] >= key_S[None, :])[None])


def visible_bias(visible_BxLxS: jax.Array) -> jax.Array:
    """Bias [B, 1, L, S] that hides the keys that a query must not see."""
    return jnp.where(visible_BxLxS, 0.0, MASKED).astype(jnp.float32)[:, None]


def window_bias(positions_BxL: jax.Array, positions_BxS: jax.Array, window: int) -> jax.Array:
    """Bias [B, 1, L, S] that hides keys `window` or more positions before the query."""
    return visible_bias(positions_BxL[:, :, None] - positions_BxS[:, None, :] < window)


def gather_positions(h_BxLxD: jax.Array, at_BxT: jax.Array | None) -> jax.Array:
    """Hidden states [B, T, D] at the sequence indexes, or all of them when those are None."""
    return h_BxLxD if at_BxT is None else jnp.take_along_axis(h_BxLxD, at_BxT[:, :, None], axis=1)
