"""Residual prompt tuning."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from softprompt_jax.prompts.prompted_model import Prompt, PromptNetwork
from softprompt_jax.prompts.reparameterizations.base import Dense, Reparameterization

HIDDEN = 800
"""Width of the bottleneck: the default of the authors' code."""

_EPSILON = 1e-5


class ResidualMLP(Reparameterization):
    """P + MLP(P): a bottleneck, perhaps with layer normalisation after it, beside the prompt.

    It starts as P: the scale of the normalisation starts at 0 (without it, the projection up does).
    The authors' code starts it at 1, which adds numbers of unit variance to P, however large the
    model's embeddings are.

    Parameters: P D + (2 D H + H + D), the network's once for all positions or, with `separate`, for
    each of them; 2 D more for the normalisation.

    Args:
        vectors: float32 `[P, D]`, how the prompt starts.
        hidden: H.
        layer_norm: normalise what the bottleneck gives.
        separate: a network for each position instead of one for all.
        key: of the network's start.

    References:
        Razdaibiedina et al. 2023, "Residual Prompt Tuning: Improving Prompt Tuning with Residual
        Reparameterization", section 3.
    """

    def __init__(
        self,
        vectors: Float[Array, "P D"],
        hidden: int,
        *,
        layer_norm: bool = True,
        separate: bool = False,
        key: jax.Array,
    ):
        length, width = vectors.shape
        networks = length if separate else None
        down_key, up_key = jax.random.split(key)
        self.table = Prompt(vectors)
        self.down = Dense(width, hidden, key=down_key, networks=networks)
        self.up = Dense(hidden, width, key=up_key, networks=networks, zero=not layer_norm)
        norm_shape = (length, width) if separate else (width,)
        self.scale = PromptNetwork(jnp.zeros(norm_shape)) if layer_norm else None
        self.shift = PromptNetwork(jnp.zeros(norm_shape)) if layer_norm else None

    @property
    def vectors(self) -> Float[Array, "P D"]:
        """P + MLP(P)."""
        table_PxD = self.table[...]
        y_PxD = self.up(jax.nn.relu(self.down(table_PxD)))
        if self.scale is not None and self.shift is not None:
            centred = y_PxD - jnp.mean(y_PxD, axis=1, keepdims=True)
            variance = jnp.mean(jnp.square(centred), axis=1, keepdims=True)
            scale, shift = (jnp.atleast_2d(x[...]) for x in (self.scale, self.shift))
            y_PxD = centred * jax.lax.rsqrt(variance + _EPSILON) * scale + shift
        return table_PxD + y_PxD
