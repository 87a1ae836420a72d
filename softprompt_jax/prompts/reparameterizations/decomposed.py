"""Decomposed prompt tuning."""

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from softprompt_jax.prompts.prompted_model import OffsetPrompt, Prompt, PromptNetwork
from softprompt_jax.prompts.reparameterizations.base import Reparameterization


class DecomposedPrompt(Reparameterization):
    """DePT: a short prompt, and for each position of the input an offset of low rank, A B.

    The offsets are added to the frozen embeddings of the input's tokens by their place in the
    input. The prompt costs its length in every layer; the offsets cost nothing but the sum.

    Parameters: P D + O R + R D, with O positions and rank R. The authors spend those of 100 vectors
    on 40 to 60 vectors and the offsets of 256 positions at rank 45 to 30.

    Args:
        vectors: float32 `[P, D]`.
        offset_a: float32 `[O, R]`; inputs may be longer, and have no offsets from there on.
        offset_b: float32 `[R, D]`.

    References:
        Shi and Lipani 2024, "DePT: Decomposed Prompt Tuning for Parameter-Efficient Fine-tuning",
        section 2.
    """

    folds: ClassVar[bool] = False
    kind: ClassVar[str] = "dept"

    def __init__(
        self,
        vectors: Float[Array, "P D"],
        offset_a: Float[Array, "O R"],
        offset_b: Float[Array, "R D"],
    ):
        self.table = Prompt(vectors)
        self.offset_a = PromptNetwork(offset_a)
        self.offset_b = PromptNetwork(offset_b)

    @staticmethod
    def start(
        vectors: Float[Array, "P D"], positions: int, rank: int, key: jax.Array
    ) -> "DecomposedPrompt":
        """Without offsets: B is 0, and A uniform within 1/sqrt(R) of 0 as in the authors' code."""
        bound = rank**-0.5
        offset_a = jax.random.uniform(key, (positions, rank), jnp.float32, -bound, bound)
        return DecomposedPrompt(vectors, offset_a, jnp.zeros((rank, vectors.shape[1])))

    @property
    def length(self) -> int:
        """P."""
        return self.table.shape[0]

    @property
    def served(self) -> OffsetPrompt:
        """The short prompt and the offsets."""
        return OffsetPrompt(self.table[...], self.offset_a[...] @ self.offset_b[...])

    def fits(self, config: Any) -> bool:
        """Whether it is as wide as a model of this configuration."""
        return self.table.shape[1] == config.d_model
