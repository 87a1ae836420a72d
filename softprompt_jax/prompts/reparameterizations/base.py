"""What all parameterisations are, and the layer that their networks are made of."""

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from softprompt_jax.prompts.prompted_model import AnyPrompt, PromptNetwork


class Reparameterization(nnx.Module):
    """Trained parameters that a prompt is computed from.

    Attributes:
        folds: whether the prompt is its vectors and no more, so that they are all that is kept;
            else the parameters are kept (`unfolded_prompt`).
    """

    folds: ClassVar[bool] = True

    @property
    def vectors(self) -> Float[Array, "*tasks length d_model"]:
        """The prompt's values, float32."""
        raise NotImplementedError

    @property
    def served(self) -> AnyPrompt:
        """What the model is given."""
        return self.vectors


class Dense(nnx.Module):
    """x @ kernel + bias, started as torch's Linear, uniform within 1/sqrt(inputs) of 0.

    Args:
        n_in: inputs.
        n_out: outputs.
        key: of the draws.
        networks: None: one for all positions, kernel `[in, out]`; else as many, each for a
            position of its own, kernel `[networks, in, out]`.
        zero: start at zero.
    """

    def __init__(
        self,
        n_in: int,
        n_out: int,
        *,
        key: jax.Array,
        networks: int | None = None,
        zero: bool = False,
    ):
        rows = () if networks is None else (networks,)
        bound = 0.0 if zero else n_in**-0.5
        keys = jax.random.split(key)
        self.kernel = uniform_network(keys[0], (*rows, n_in, n_out), bound)
        self.bias = uniform_network(keys[1], (*rows, n_out), bound)

    def __call__(self, x_PxI: Float[Array, "P I"]) -> Float[Array, "P O"]:
        """Applies it to every position, or to each position its own."""
        kernel, bias = self.kernel[...], self.bias[...]
        if kernel.ndim == 2:
            return x_PxI @ kernel + bias[None]
        return (x_PxI[:, None] @ kernel)[:, 0] + bias


def uniform_network(key: jax.Array, shape: tuple[int, ...], bound: float) -> PromptNetwork:
    """Weights drawn from [-bound, bound), float32."""
    return PromptNetwork(jax.random.uniform(key, shape, jnp.float32, -1.0, 1.0) * bound)
