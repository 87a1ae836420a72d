"""The frozen model with a prompt before its input: what a training step differentiates."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from softprompt_jax.models.attention import KeysValues, Past, token_positions
from softprompt_jax.models.language_model import prepend_prompt
from softprompt_jax.models.layers import Dropout
from softprompt_jax.models.stacking import is_stacked

Batch = Mapping[str, Any]
"""`inputs` int32 [B, S], `input_mask` bool [B, S], `targets` int32 [B, T], `target_mask` bool
[B, T], `prompt_ids` int32 [B]; inputs and targets are padded on the right."""


class Prompt(nnx.Param):
    """Marks the parameters that prompt tuning trains."""


class PromptNetwork(Prompt):
    """Marks those of them that are no vectors of a prompt, but weights that make them.

    They may have a learning rate of their own.
    """


class PromptedModel(nnx.Module):
    """A frozen model and the prompt that is trained for it.

    Attributes:
        model: `T5`, `Llama` or `GPT2`.
        prompt: what is trained: vectors, float32 `[length, d_model]` or, one prompt a task,
            `[tasks, length, d_model]`; a module of `reparameterizations`, which has `vectors` of
            such a shape or is `served` as more than vectors; or None for the plain model (model
            tuning).
    """

    def __init__(self, model: Any, prompt: Float[Array, "*tasks length d_model"] | Any | None):
        self.model = model
        plain = prompt is not None and not isinstance(prompt, nnx.Module)
        self.prompt: Any = Prompt(prompt) if plain else prompt

    def target_logits(self, batch: Batch, dropout: Dropout | None = None) -> Float[Array, "B T V"]:
        """float32 logits that predict each target token from what comes before it.

        Only these positions reach the vocabulary projection, the largest matrix of small models.
        Of several tasks' prompts each row has that of its `prompt_ids`.
        """
        return target_logits(self.model, batch, self.prompt_of(batch, dropout), dropout)

    def prompt_of(self, batch: Batch, dropout: Dropout | None = None) -> "AnyPrompt":
        """`served`; of several tasks' prompts, that of each row's `prompt_ids`."""
        prompt = self.served
        if prompt is not None and not isinstance(prompt, tuple) and prompt.ndim == 3:
            return row_prompts(self.model, prompt, batch["prompt_ids"], dropout)
        return prompt

    @property
    def vectors(self) -> Float[Array, "*tasks length d_model"] | None:
        """The prompt's values, computed anew where they are not what is trained; None without.

        Raises:
            TypeError: the prompt is more than vectors.
        """
        served = self.served
        if isinstance(served, tuple):
            raise TypeError(f"A {type(self.prompt).__name__} is more than vectors.")
        return served

    @property
    def served(self) -> "AnyPrompt":
        """What the functions of this module take as the prompt; of several tasks, all of theirs."""
        if self.prompt is None:
            return None
        return self.prompt[...] if isinstance(self.prompt, Prompt) else self.prompt.served


class RowPrompts(NamedTuple):
    """One prompt a row, of differing lengths: mixed tasks in one batch.

    Attributes:
        vectors: float `[B, P, D]`, shorter prompts padded on the left.
        mask: bool `[B, P]`, False at that padding.
    """

    vectors: Float[Array, "B P D"]
    mask: Bool[Array, "B P"]


class OffsetPrompt(NamedTuple):
    """One prompt for all rows, and what is added to the embeddings of their inputs.

    Attributes:
        vectors: float `[P, D]`.
        offsets: float `[O, D]`, of an input's first O tokens; later ones have none.
    """

    vectors: Float[Array, "P D"]
    offsets: Float[Array, "O D"]


class PastPair(NamedTuple):
    """Keys and values that stand before an encoder's input and before what its decoder says.

    Attributes:
        encoder: each layer's, `[1, H, P, K]`; None: nothing stands there.
        decoder: likewise, of self-attention.
    """

    encoder: list[KeysValues] | None
    decoder: list[KeysValues]


AnyPrompt = Float[Array, "P D"] | RowPrompts | OffsetPrompt | Past | PastPair | None
"""One prompt for all rows, perhaps with offsets, or one a row, or a causal model's keys and values
of either, or those of an encoder and its decoder."""


def target_logits(
    model: Any, batch: Batch, prompt: AnyPrompt, dropout: Dropout | None = None
) -> Float[Array, "B T V"]:
    """As `PromptedModel.target_logits`, for a prompt that is no parameter."""
    if model.config.is_encoder_decoder:
        encoded, mask = encode(model, batch["inputs"], batch["input_mask"], prompt, dropout)
        before = decoder_past(prompt)
        return decode(model, batch["targets"], encoded, mask, dropout, before)
    return causal_target_logits(model, batch, prompt, dropout)


def encode(
    model: Any,
    inputs_BxS: Int[Array, "B S"],
    mask_BxS: Bool[Array, "B S"],
    prompt: AnyPrompt,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "B P+S D"], Bool[Array, "B P+S"]]:
    """T5's encoder over prompt and input; it sees both at once, so that a `Past` has no place.

    What it gives of a `PastPair` is of the input only, `[B, S, D]`.
    """
    x = add_offsets(prompt, model.embed(inputs_BxS), mask_BxS)
    if isinstance(prompt, PastPair):
        return model.encode(x, mask_BxS, past=prompt.encoder, dropout=dropout), mask_BxS
    x, mask = prepend_prompt(*_vectors_first(prompt, x, mask_BxS))
    return model.encode(x, mask, dropout=dropout), mask


def add_offsets(
    prompt: AnyPrompt, x_BxLxD: Float[Array, "B L D"], mask_BxL: Bool[Array, "B L"]
) -> Float[Array, "B L D"]:
    """Embedded tokens with the prompt's offsets, if it has any, by their place in the input.

    Args:
        prompt: of any kind.
        x_BxLxD: embedded tokens.
        mask_BxL: True for the input's real tokens, which are counted, wherever padding stands.
    """
    if not isinstance(prompt, OffsetPrompt):
        return x_BxLxD
    length = x_BxLxD.shape[1]
    offsets_OxD = prompt.offsets[:length].astype(x_BxLxD.dtype)
    offsets_LxD = jnp.pad(offsets_OxD, ((0, length - offsets_OxD.shape[0]), (0, 0)))
    own_BxLxD = offsets_LxD[token_positions(mask_BxL, length)]
    return x_BxLxD + jnp.where(mask_BxL[:, :, None], own_BxLxD, 0)


def decoder_past(prompt: AnyPrompt) -> list[KeysValues] | None:
    """What of the prompt stands before an encoder-decoder's targets."""
    return prompt.decoder if isinstance(prompt, PastPair) else None


def decode(
    model: Any,
    targets_BxT: Int[Array, "B T"],
    encoded_BxSxD: Float[Array, "B S D"],
    mask_BxS: Bool[Array, "B S"],
    dropout: Dropout | None = None,
    past: list[KeysValues] | None = None,
) -> Float[Array, "B T V"]:
    """T5's decoder, fed the targets one step late."""
    start = jnp.full_like(targets_BxT[:, :1], model.config.decoder_start_id)
    decoder_inputs = jnp.concatenate([start, targets_BxT[:, :-1]], axis=1)
    x = model.embed(decoder_inputs)
    h = model.decode(x, encoded_BxSxD, mask_BxS, past=past, dropout=dropout)
    return model.unembed(h)


def causal_target_logits(
    model: Any, batch: Batch, prompt: AnyPrompt, dropout: Dropout | None = None
) -> Float[Array, "B T V"]:
    """A causal model over prompt, input and target without a gap between them."""
    assert not isinstance(prompt, PastPair), "is of an encoder-decoder"
    inputs, targets = batch["inputs"], batch["targets"]
    lengths_B = jnp.sum(batch["input_mask"], axis=1, dtype=jnp.int32)
    ids = join(inputs, lengths_B, targets)
    x = model.embed(ids)
    if isinstance(prompt, OffsetPrompt):
        is_input_BxL = jnp.arange(ids.shape[1], dtype=jnp.int32)[None] < lengths_B[:, None]
        x, prompt = add_offsets(prompt, x, is_input_BxL), prompt.vectors
    # The first target token is predicted at the input's last token.
    at_BxT = lengths_B[:, None] - 1 + jnp.arange(targets.shape[1], dtype=jnp.int32)[None]
    if isinstance(prompt, Past):
        return model.unembed(model(x, at_BxT=at_BxT, past=prompt, dropout=dropout))
    if prompt is not None and not isinstance(prompt, RowPrompts) and dropout is None:
        # Under dropout the prompt's rows would differ.
        return model.unembed(model.after_prompt(prompt.astype(x.dtype), x, at_BxT))
    x, mask = prepend_prompt(*_vectors_first(prompt, x, jnp.ones(ids.shape, bool)))
    # Padding after the text is where no real token looks: only that of shorter prompts, before it,
    # takes a mask beside the causal one.
    mask = mask if isinstance(prompt, RowPrompts) else None
    prompt_length = x.shape[1] - ids.shape[1]
    return model.unembed(model(x, mask, at_BxT=prompt_length + at_BxT, dropout=dropout))


def prompt_past(model: Any, prompt: AnyPrompt) -> Past | None:
    """A causal model's keys and values of a prompt: all that what follows takes from it.

    Args:
        model: `Llama` or `GPT2`.
        prompt: vectors for all rows give keys and values of one row that serves all; `RowPrompts`
            may also be a bank of prompts, of which `take_rows` then gives each row its own.
    """
    assert not isinstance(prompt, PastPair), "is of an encoder-decoder"
    if prompt is None or isinstance(prompt, Past):
        return prompt
    dtype = model.embedding[...].dtype
    if isinstance(prompt, RowPrompts):
        return model.prefix(prompt.vectors.astype(dtype), prompt.mask)
    if isinstance(prompt, OffsetPrompt):
        prompt = prompt.vectors
    return model.prefix(prompt.astype(dtype)[None])


def row_prompts(
    model: Any,
    prompts_NxPxD: Float[Array, "N P D"],
    prompt_ids_B: Int[Array, " B"],
    dropout: Dropout | None = None,
) -> RowPrompts | Past:
    """Each row's own of several prompts.

    A causal model computes what it takes from a prompt once for each prompt, not once a row: where
    no dropout tells rows apart, and where layers neither loop nor are computed anew.
    """
    causal = not model.config.is_encoder_decoder
    unrolled = causal and model.remat in ("none", "attention") and not is_stacked(model.blocks)
    if unrolled and dropout is None:
        past = model.prefix(prompts_NxPxD.astype(model.embedding[...].dtype))
        return jax.tree.map(lambda x: x[prompt_ids_B], past)
    vectors_BxPxD = prompts_NxPxD[prompt_ids_B]
    return RowPrompts(vectors_BxPxD, jnp.ones(vectors_BxPxD.shape[:2], bool))


def _vectors_first(prompt: AnyPrompt, x: Array, mask: Array) -> tuple[Any, ...]:
    """Arguments of `prepend_prompt` for either kind of prompt."""
    if isinstance(prompt, RowPrompts):
        return prompt.vectors, x, mask, prompt.mask
    return prompt.vectors if isinstance(prompt, OffsetPrompt) else prompt, x, mask


def join(
    inputs_BxS: Int[Array, "B S"], lengths_B: Int[Array, " B"], targets_BxT: Int[Array, "B T"]
) -> Int[Array, "B S+T-1"]:
    """Each row's real input tokens, then its targets but the last, then padding."""
    extra = targets_BxT.shape[1] - 1
    index_L = jnp.arange(inputs_BxS.shape[1] + extra, dtype=jnp.int32)
    into_target_BxL = index_L[None] - lengths_B[:, None]
    from_target = jnp.take_along_axis(targets_BxT, jnp.clip(into_target_BxL, 0, extra), axis=1)
    from_input = jnp.pad(inputs_BxS, ((0, 0), (0, extra)))
    return jnp.where(into_target_BxL < 0, from_input, from_target)
