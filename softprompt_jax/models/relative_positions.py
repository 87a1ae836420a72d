"""T5's relative positions: distances in buckets, each with a learnt bias for every head."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def relative_buckets(
    offsets: np.ndarray, *, bidirectional: bool, n_buckets: int, max_distance: int
) -> np.ndarray:
    """Buckets of relative positions: exact for near ones, then growing as powers.

    Args:
        offsets: key position minus query position, int.
        bidirectional: whether later keys have buckets of their own (the encoder).
        n_buckets: number of buckets in all.
        max_distance: distance in tokens from which on all share the last bucket.

    Returns:
        int32 array of the shape of offsets, in [0, n_buckets).

    References:
        Raffel et al. 2020, section 2.1; `_relative_position_bucket` of Mesh TensorFlow.
    """
    first = np.zeros_like(offsets)
    if bidirectional:
        n_buckets //= 2
        first = (offsets > 0) * n_buckets
        distances = np.abs(offsets)
    else:
        distances = np.maximum(-offsets, 0)
    n_exact = n_buckets // 2
    # float32 as in the original, whose rounding decides the buckets at the powers of two.
    ratio = np.maximum(distances, n_exact).astype(np.float32) / np.float32(n_exact)
    steps = np.log(ratio) / np.float32(math.log(max_distance / n_exact))
    far = n_exact + (steps * np.float32(n_buckets - n_exact)).astype(np.int32)
    near_or_far = np.where(distances < n_exact, distances, np.minimum(far, n_buckets - 1))
    return (first + near_or_far).astype(np.int32)


def every_offset_bias(bias_OxH: jax.Array, length: int) -> jax.Array:
    """Biases [1, H, L, L] of a sequence with itself.

    Args:
        bias_OxH: float32, biases of the offsets (key minus query) from -(L-1) to L-1.
        length: L.
    """
    # Row q of the result is the biases shifted by q. A row of n_offsets + 1 numbers, repeated and
    # then cut into rows of n_offsets, moves by one at each row; unlike an [L, L] gather this has a
    # gradient without a scatter.
    n_offsets, n_heads = bias_OxH.shape
    padded = jnp.pad(bias_OxH.T, ((0, 0), (0, 1)))
    rows = jnp.broadcast_to(padded[:, None, :], (n_heads, length, n_offsets + 1))
    flat = rows.reshape(n_heads, length * (n_offsets + 1))[:, : length * n_offsets]
    return flat.reshape(n_heads, length, n_offsets)[None, :, :, length - 1 :]
