"""Prompts of several tasks on the device, of which each row of a batch takes its own.

A bank is a pytree of arrays whose first dimension is the place of a prompt: keys and values for
causal models (`Past`, a prompt's cache), vectors for T5, whose encoder sees prompt and text at
once (`RowPrompts`). It is an argument of compiled functions, so that prompts come and go without
compiling anything, as long as number and length of the places stay.

A prompt that shares no batch with others is all that its bank holds: DePT's, whose offsets would be
as large as the inputs, and T5's prefix.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from softprompt_jax.errors import UserError
from softprompt_jax.models import LanguageModel
from softprompt_jax.models.attention import KeysValues, Past
from softprompt_jax.prompts.prompted_model import OffsetPrompt, PastPair, RowPrompts, prompt_past
from softprompt_jax.prompts.reparameterizations import LayerPrefix
from softprompt_jax.prompts.unfolded_prompt import AnyTrainedPrompt, UnfoldedPrompt

Bank = TypeVar("Bank", RowPrompts, Past, OffsetPrompt, PastPair)


def is_alone(prompt: AnyTrainedPrompt) -> bool:
    """Whether all rows of a batch must have this prompt."""
    return isinstance(prompt, UnfoldedPrompt) and not isinstance(prompt.module, LayerPrefix)


def check_prompt(name: str, prompt: AnyTrainedPrompt, config: Any, model_name: str) -> None:
    """Refuses a prompt that a model cannot read before a text.

    Args:
        name: of the prompt.
        prompt: of any kind.
        config: of the model.
        model_name: for the message.

    Raises:
        UserError: it is made for a model of another shape, or takes all positions.
    """
    prompt.check_fits(config, model_name)
    limit = config.max_positions
    if limit is not None and prompt.length >= limit:
        raise UserError(
            f"Prompt {name} has {prompt.length} virtual tokens, but {model_name} reads {limit} "
            "at most, the text included; use a shorter prompt."
        )


def check_together(prompts: Mapping[str, AnyTrainedPrompt]) -> None:
    """Refuses prompts that no batch can mix.

    Raises:
        UserError: there are several, and one of them must be alone.
    """
    for name, prompt in prompts.items():
        if len(prompts) > 1 and isinstance(prompt, UnfoldedPrompt) and is_alone(prompt):
            raise UserError(
                f"Prompt {name} is a {prompt.kind!r} prompt, which shares no batch with others; "
                "give it alone."
            )


def told_of_other_weights(
    prompts: Mapping[str, AnyTrainedPrompt], model: LanguageModel
) -> Iterator[str]:
    """A sentence about each prompt that was trained on other weights than the model's."""
    for name, prompt in prompts.items():
        trained_on = prompt.card.get("model_fingerprint")
        if trained_on is not None and trained_on != model.fingerprint:
            yield (
                f"prompt {name} was trained on {prompt.card.get('model')} with other weights than "
                f"those of {model.name}; what comes out means little."
            )


def pad_prompt(vectors_PxD: Float[Array, "P D"], length: int) -> RowPrompts:
    """A prompt as a bank of one, padded on the left so that it ends directly before the text."""
    missing = length - vectors_PxD.shape[0]
    vectors = jnp.pad(jnp.asarray(vectors_PxD), ((missing, 0), (0, 0)))
    return RowPrompts(vectors[None], (jnp.arange(length, dtype=jnp.int32) >= missing)[None])


def pad_prefix(past: Past, length: int, dtype: Any) -> Past:
    """A causal model's prefix as a bank of one, padded on the left likewise."""
    missing = length - past.layers[0].keys.shape[2]

    def pad(x_1xGxPxK: Array) -> Array:
        return jnp.pad(x_1xGxPxK.astype(dtype), ((0, 0), (0, 0), (missing, 0), (0, 0)))

    layers = [KeysValues(*map(pad, layer)) for layer in past.layers]
    return Past(layers, (jnp.arange(length, dtype=jnp.int32) >= missing)[None])


def make_bank(model: Any, prompts: RowPrompts) -> RowPrompts | Past:
    """The bank of prompts: for a causal model what its layers keep of them, computed here.

    Args:
        model: `T5`, `Llama` or `GPT2`.
        prompts: vectors `[N, P, D]`, padded on the left, and mask `[N, P]`.
    """
    if model.config.is_encoder_decoder:
        return prompts
    past = prompt_past(model, prompts)
    assert past is not None
    return past


def empty_bank(model: Any, places: int, length: int) -> RowPrompts | Past:
    """A bank without prompts, of that many places for prompts of at most that length.

    The row that takes an empty place is answered as without a prompt.
    """
    shapes = _bank_shapes(model, places, length)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


def grow_bank(model: Any, bank: Bank, places: int, length: int) -> Bank:
    """The bank with more places, for longer prompts; each prompt stays in its place.

    A prompt ends where its place ends, as in `pad_prompt`, and its padding is seen by nobody.
    """

    def grow(leaf: Array, larger: jax.ShapeDtypeStruct) -> Array:
        missing = np.subtract(larger.shape, leaf.shape).tolist()
        edges = [(0, missing[0], 0), *((before, 0, 0) for before in missing[1:])]
        return jax.lax.pad(leaf, np.zeros((), leaf.dtype), edges)

    return jax.tree.map(grow, bank, _bank_shapes(model, places, length))


def _bank_shapes(model: Any, places: int, length: int) -> Any:
    vectors = jax.ShapeDtypeStruct((places, length, model.config.d_model), jnp.float32)
    mask = jax.ShapeDtypeStruct((places, length), jnp.bool_)
    return jax.eval_shape(lambda v, m: make_bank(model, RowPrompts(v, m)), vectors, mask)


def put_prompt(bank: Bank, place: Int[Array, ""] | int, one: Bank) -> Bank:
    """The bank with a prompt, from a bank of one of the same length, at a place."""
    return jax.tree.map(lambda all_, new: all_.at[place].set(new[0]), bank, one)


def take_rows(bank: Bank, places_B: Int[Array, " B"]) -> Bank:
    """Each row's own prompt; the only one, where all have it."""
    if isinstance(bank, (OffsetPrompt, PastPair)):
        return bank
    return jax.tree.map(lambda leaf: leaf[places_B], bank)
