"""Multitask prompt tuning."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from softprompt_jax.prompts.prompted_model import Prompt
from softprompt_jax.prompts.reparameterizations.base import Reparameterization


class MultitaskPrompt(Reparameterization):
    """One prompt shared by all tasks, times a matrix of rank one for each: P * (u v^T).

    Each task's factors start at 1, so that all tasks start with the shared prompt. (PEFT draws
    them with a standard deviation of 0.02, so that its prompts start near 0.)

    Parameters: P D + N (P + D).

    Args:
        vectors: float32 `[P, D]`, how the shared prompt starts.
        tasks: N.

    References:
        Wang et al. 2023, "Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning",
        section 3.1; its distillation is `training.objectives.Distillation`.
    """

    def __init__(self, vectors: Float[Array, "P D"], tasks: int):
        length, width = vectors.shape
        self.shared = Prompt(vectors)
        self.columns = Prompt(jnp.ones((tasks, length)))
        self.rows = Prompt(jnp.ones((tasks, width)))

    @property
    def vectors(self) -> Float[Array, "N P D"]:
        """Every task's prompt."""
        factors_NxPxD = self.columns[...][:, :, None] * self.rows[...][:, None, :]
        return self.shared[...][None] * factors_NxPxD
