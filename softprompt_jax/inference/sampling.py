"""Sampling of the next token, with random keys of each row's own."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from softprompt_jax.errors import UserError


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["keys_B", "temperature", "top_p"],
    meta_fields=["top_k"],
)
@dataclass(frozen=True)
class Sampler:
    """Draws tokens; a row's depend on its key and the step, not on its place or its neighbours.

    Attributes:
        keys_B: typed PRNG keys, one a row (`row_keys`).
        temperature: what logits are divided by. May change without compiling anew.
        top_k: draw from so many likeliest tokens; None: from all. Static under jit.
        top_p: draw from the fewest likeliest tokens that have this probability together; None: from
            all. May change without compiling anew, but not to or from None.

    References:
        Fan et al. 2018, "Hierarchical Neural Story Generation", section 5.4 (top k); Holtzman et
        al. 2020, "The Curious Case of Neural Text Degeneration", section 3.1 (top p). The order of
        the three is transformers'.
    """

    keys_B: Array  # noqa: N815 (shape suffix)
    temperature: float | Float[Array, ""] = 1.0
    top_k: int | None = None
    top_p: float | Float[Array, ""] | None = None

    def __call__(self, logits_BxV: Float[Array, "B V"], step: Int[Array, ""]) -> Int[Array, " B"]:
        """The next token of each row."""
        # The largest is 0, so that a small temperature leaves it finite.
        logits_BxV = logits_BxV - jnp.max(logits_BxV, axis=1, keepdims=True)
        logits_BxV = keep_likeliest(logits_BxV / self.temperature, self.top_k, self.top_p)

        def draw(key: Array, logits_V: Array) -> Array:
            return jax.random.categorical(jax.random.fold_in(key, step), logits_V)

        return jax.vmap(draw)(self.keys_B, logits_BxV).astype(jnp.int32)


def row_keys(seed: int | Int[Array, ""], ids_B: Int[Array, " B"]) -> Array:
    """A PRNG key for each row, from the seed and the row's own number in the whole task.

    With the number in the task, not in the batch, the same seed gives a row the same text however
    rows are batched, padded and spread over devices.
    """
    return jax.vmap(partial(jax.random.fold_in, jax.random.key(seed)))(ids_B)


def check_sampling(temperature: float, top_k: int | None, top_p: float | None) -> None:
    """Refuses what cannot be sampled with.

    Raises:
        UserError: temperature is not above 0, top_k not above 0, or top_p not in (0, 1].
    """
    if not temperature > 0:
        raise UserError(f"temperature is {temperature}; it must be above 0.")
    if top_k is not None and top_k < 1:
        raise UserError(f"top_k is {top_k}; it must be at least 1.")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p is {top_p}; it must be above 0 and at most 1.")


def keep_likeliest(
    logits_BxV: Float[Array, "B V"],
    top_k: int | None,
    top_p: float | Float[Array, ""] | None,
) -> Float[Array, "B V"]:
    """Logits in which tokens outside the top k, then outside the top p of these, have no weight.

    Tokens as likely as the last one kept are kept too.

    Args:
        logits_BxV: float32.
        top_k: number of tokens, or None.
        top_p: probability in (0, 1], or None. At least one token stays.
    """
    n_tokens = logits_BxV.shape[1]
    if top_p is None and (top_k is None or top_k >= n_tokens):
        return logits_BxV
    # Without top_k this sorts the whole vocabulary.
    sorted_BxK, _ = jax.lax.top_k(logits_BxV, n_tokens if top_k is None else min(top_k, n_tokens))
    least_Bx1 = sorted_BxK[:, -1:]
    if top_p is not None:
        probabilities = jax.nn.softmax(sorted_BxK, axis=-1)
        likelier = jnp.cumsum(probabilities, axis=-1) - probabilities
        kept = jnp.where(likelier < top_p, sorted_BxK, jnp.inf).at[:, 0].set(sorted_BxK[:, 0])
        least_Bx1 = jnp.min(kept, axis=-1, keepdims=True)
    return jnp.where(logits_BxV >= least_Bx1, logits_BxV, -jnp.inf)
