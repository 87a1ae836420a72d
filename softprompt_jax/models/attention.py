"""Attention, its masks and biases, and the keys and values that it leaves for later positions.

Shape suffixes as in `layers`. Scores and softmax are float32 whatever the dtype of the model.
"""

from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from softprompt_jax.models.layers import Dropout, apply_dropout

Method = Literal["plain", "recompute", "by_row"]
"""How attention is computed: keeping its weights for the backward pass, computing them anew there,
or row by row, computing them anew, so that one row's weights at a time fit the cache of a CPU."""

# Below so many scores of a batch, a loop over rows costs more than the cache gives.
_WORTH_A_LOOP = 1 << 21


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
    site: int | jax.Array = 0,
    method: Method = "plain",
) -> jax.Array:
    """Attention; with fewer heads of keys than of queries, each serves H / G neighbouring queries.

    Args:
        q_BxHxLxK: queries.
        k_BxGxSxK: keys.
        v_BxGxSxK: values.
        biases: arrays of four dimensions that broadcast to [B, H, L, S], float32, added to the
            scores one after the other. They stay apart because their sum would be as large as the
            scores themselves, while each is small.
        scale: factor of the queries.
        dropout: dropout of the attention weights.
        site: its site.
        method: as `Method`; all give the same.

    Returns:
        [B, L, H*K] in the dtype of v.
    """
    if scale != 1.0:
        q_BxHxLxK = q_BxHxLxK * scale
    batch, n_heads, length, width = q_BxHxLxK.shape
    if method == "by_row" and dropout is None:
        large = batch * n_heads * length * k_BxGxSxK.shape[2] >= _WORTH_A_LOOP
        mix = _mix_by_row if large else _mix
    else:
        mix = partial(_mix, dropout=dropout, site=site)
        mix = mix if method == "plain" else jax.checkpoint(mix)
    mixed_BxHxLxK = mix(q_BxHxLxK, k_BxGxSxK, v_BxGxSxK, biases)
    return mixed_BxHxLxK.transpose(0, 2, 1, 3).reshape(batch, length, n_heads * width)


def _mix(
    q_BxHxLxK: jax.Array,
    k_BxGxSxK: jax.Array,
    v_BxGxSxK: jax.Array,
    biases: tuple[jax.Array, ...],
    dropout: Dropout | None = None,
    site: int | jax.Array = 0,
) -> jax.Array:
    """Mixed values [B, H, L, K]."""
    scores = _scores(q_BxHxLxK, k_BxGxSxK, biases)
    weights = apply_dropout(dropout, jax.nn.softmax(scores, axis=-1), site)
    weights = weights.astype(v_BxGxSxK.dtype)
    return (_by_group(weights, v_BxGxSxK) @ v_BxGxSxK).reshape(q_BxHxLxK.shape)


def _scores(
    q: jax.Array,
    k: jax.Array,
    biases: tuple[jax.Array, ...],
) -> jax.Array:
    """float32 [..., H, L, S], with the biases, of q [..., H, L, K] and k [..., G, S, K]."""
    scores = jnp.matmul(
        _by_group(q, k), k.swapaxes(-1, -2), preferred_element_type=jnp.float32
    ).reshape(*q.shape[:-1], k.shape[-2])
    for bias in biases:
        scores = scores + bias
    return scores


def _by_group(x: jax.Array, k: jax.Array) -> jax.Array:
    """[..., H, L, X] as [..., G, H/G*L, X], so that keys and values need no copies per head."""
    return x.reshape(*k.shape[:-2], -1, x.shape[-1])


# --- Row by row ------------------------------------------------------------------------------


@jax.custom_vjp
def _mix_by_row(
    q_BxHxLxK: jax.Array,
    k_BxGxSxK: jax.Array,
    v_BxGxSxK: jax.Array,
    biases: tuple[jax.Array, ...],
) -> jax.Array:
    """As `_mix`. The backward pass keeps two numbers a query and has the weights from them.

    References:
        Dao et al. 2022, "FlashAttention: Fast and Memory-Efficient Exact Attention", appendix B,
        with a row of the batch as the tile.
    """
    return _forward_by_row(q_BxHxLxK, k_BxGxSxK, v_BxGxSxK, biases)[0]


def _forward_by_row(
    q: jax.Array, k: jax.Array, v: jax.Array, biases: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mixed values [B, H, L, K], and the softmax's maxima and sums, float32 [B, H, L, 1]."""
    shared, own = _split_biases(biases)

    def row(x: Any) -> tuple[jax.Array, jax.Array, jax.Array]:
        q, k, v, own = x
        scores = _scores(q, k, (*shared, *own))
        largest = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - largest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mixed = jnp.matmul(
            _by_group(weights.astype(v.dtype), v), v, preferred_element_type=jnp.float32
        )
        return (mixed.reshape(q.shape) / total).astype(v.dtype), largest, total

    return jax.lax.map(row, (q, k, v, own))


def _start(q: Any, k: Any, v: Any, biases: tuple[Any, ...]) -> tuple[jax.Array, Any]:
    # Which biases are trained is known when this is traced; None is no array to keep.
    trained = tuple(() if bias.perturbed else None for bias in biases)
    q, k, v = q.value, k.value, v.value
    values = tuple(bias.value for bias in biases)
    mixed, largest, total = _forward_by_row(q, k, v, values)
    return mixed, (q, k, v, values, trained, mixed, largest, total)


def _backward(kept: Any, slope: Any) -> tuple[Any, ...]:
    q, k, v, biases, trained, mixed, largest, total = kept
    shared, own = _split_biases(biases)
    wanted = [i for i, each in enumerate(trained) if each is not None]
    # What all rows share gets the sum of their gradients: one row's scores are kept, not all rows'.
    sums = any(biases[i].shape[0] == 1 for i in wanted)
    stacks = any(biases[i].shape[0] != 1 for i in wanted)

    def row(summed: jax.Array | None, x: Any) -> tuple[jax.Array | None, tuple[Any, ...]]:
        q, k, v, own, mixed, largest, total, slope = x
        weights = jnp.exp(_scores(q, k, (*shared, *own)) - largest) / total
        of_weights = jnp.matmul(
            _by_group(slope, v), v.swapaxes(-1, -2), preferred_element_type=jnp.float32
        ).reshape(weights.shape)
        products = slope.astype(jnp.float32) * mixed.astype(jnp.float32)
        of_scores = weights * (of_weights - jnp.sum(products, axis=-1, keepdims=True))
        grouped = _by_group(of_scores.astype(q.dtype), k)
        of_q = (grouped @ k).reshape(q.shape)
        of_k = grouped.swapaxes(-1, -2) @ _by_group(q, k)
        of_v = _by_group(weights.astype(v.dtype), v).swapaxes(-1, -2) @ _by_group(slope, v)
        summed = None if summed is None else summed + of_scores
        return summed, (of_q, of_k, of_v, of_scores if stacks else None)

    start = jnp.zeros((*q.shape[1:3], k.shape[2]), jnp.float32) if sums else None
    rows = (q, k, v, own, mixed, largest, total, slope)
    summed, (of_q, of_k, of_v, of_scores) = jax.lax.scan(row, start, rows)
    of_biases: list[Any] = [None] * len(biases)
    for i in wanted:
        of_all: Any = of_scores if summed is None or biases[i].shape[0] != 1 else summed[None]
        axes = [a for a, size in enumerate(biases[i].shape) if size < of_all.shape[a]]
        of_biases[i] = jnp.sum(of_all, axis=axes, keepdims=True)
    return of_q, of_k, of_v, tuple(of_biases)


_mix_by_row.defvjp(_start, _backward, symbolic_zeros=True)


def _split_biases(
    biases: tuple[jax.Array, ...],
) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """Those that all rows share, [H or 1, L or 1, S], and those with a row for each."""
    shared = tuple(bias[0] for bias in biases if bias.shape[0] == 1)
    return shared, tuple(bias for bias in biases if bias.shape[0] != 1)


# --- Keys and values -------------------------------------------------------------------------


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
        layers: each layer's keys and values, [B, G, M, K]; B is 1 where all rows share them.
        mask: bool [B, M], False at padding, wherever that stands; None means all are real.
    """

    layers: list[KeysValues]
    mask: jax.Array | None


def join_keys_values(
    earlier: KeysValues | None, own: KeysValues, column: jax.Array | None = None
) -> KeysValues:
    """The keys and values that L queries may see: earlier ones and their own.

    Args:
        earlier: [B, G, M, K] or [1, G, M, K], or None; put before own ones they may be of another
            dtype, as those that are trained are.
        own: [B, G, L, K].
        column: None: own ones are put after the earlier ones, [B, G, M+L, K]. Else they overwrite
            the L columns from this one on, [B, G, M, K], which under jit happens in place.
    """
    if earlier is None:
        return own

    def join(earlier: jax.Array, own: jax.Array) -> jax.Array:
        if column is not None:
            return jax.lax.dynamic_update_slice_in_dim(earlier, own, column, axis=2)
        rows = jnp.broadcast_to(earlier.astype(own.dtype), (own.shape[0], *earlier.shape[1:]))
        return jnp.concatenate([rows, own], axis=2)

    return KeysValues(join(earlier.keys, own.keys), join(earlier.values, own.values))


# --- Positions, masks and biases -------------------------------------------------------------

MASKED = -1e9
"""Added to a score that must get no weight. Finite, so that a row without any key gives no NaN."""


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


def gather_queries(
    biases: tuple[jax.Array, ...], at_BxT: jax.Array | None
) -> tuple[jax.Array, ...]:
    """Biases [B, ., T, S] of some queries, from those [B or 1, ., L or 1, S] of all."""
    if at_BxT is None:
        return biases

    def gather(bias: jax.Array) -> jax.Array:
        if bias.shape[2] == 1:
            return bias
        if bias.shape[0] == 1:
            return bias[0][:, at_BxT].swapaxes(0, 1)
        return jnp.take_along_axis(bias, at_BxT[:, None, :, None], axis=2)

    return tuple(gather(bias) for bias in biases)
