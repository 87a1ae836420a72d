"""The frozen model with a prompt before its input: what a training step differentiates."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int

from softprompt_jax.models.attention import Past
from softprompt_jax.models.language_model import prepend_prompt
from softprompt_jax.models.layers import Dropout

Batch = Mapping[str, Any]
"""`inputs` int32 [B, S], `input_mask` bool [B, S], `targets` int32 [B, T], `target_mask` bool
[B, T], `prompt_ids` int32 [B]; inputs and targets are padded on the right."""


class Prompt(nnx.Param):
    """Marks the parameters that prompt tuning trains."""


class PromptedModel(nnx.Module):
    """A frozen model and the prompt that is trained for it.

    Attributes:
        model: `T5`, `Llama` or `GPT2`.
        prompt: float32 `[length, d_model]`, or None for the plain model (model tuning).
    """

    def __init__(self, model: nnx.Module, vectors: Float[Array, "length d_model"] | None):
        self.model = model
        self.prompt = None if vectors is None else Prompt(vectors)

    def target_logits(self, batch: Batch, dropout: Dropout | None = None) -> Float[Array, "B T V"]:
        """float32 logits that predict each target token from what comes before it.

        Only these positions reach the vocabulary projection, the largest matrix of small models.
        """
        return target_logits(self.model, batch, self.vectors, dropout)

    @property
    def vectors(self) -> Float[Array, "length d_model"] | None:
        """The prompt's values, None for the plain model."""
        return None if self.prompt is None else self.prompt[...]


class RowPrompts(NamedTuple):
    """One prompt a row, of differing lengths: mixed tasks in one batch.

    Attributes:
        vectors: float `[B, P, D]`, shorter prompts padded on the left.
        mask: bool `[B, P]`, False at that padding.
    """

    vectors: Float[Array, "B P D"]
    mask: Bool[Array, "B P"]


AnyPrompt = Float[Array, "P D"] | RowPrompts | Past | None
"""One prompt for all rows, one a row, or a causal model's keys and values of either."""


def target_logits(
    model: Any, batch: Batch, prompt: AnyPrompt, dropout: Dropout | None = None
) -> Float[Array, "B T V"]:
    """As `PromptedModel.target_logits`, for a prompt that is no parameter."""
    if model.config.is_encoder_decoder:
        encoded, mask = encode(model, batch["inputs"], batch["input_mask"], prompt, dropout)
        return decode(model, batch["targets"], encoded, mask, dropout)
    return causal_target_logits(model, batch, prompt, dropout)


def encode(
    model: Any,
    inputs_BxS: Int[Array, "B S"],
    mask_BxS: Bool[Array, "B S"],
    prompt: AnyPrompt,
    dropout: Dropout | None = None,
) -> tuple[Float[Array, "B P+S D"], Bool[Array, "B P+S"]]:
    """T5's encoder over prompt and input; it sees both at once, so that a `Past` has no place."""
    x, mask = prepend_prompt(*_vectors_first(prompt, model.embed(inputs_BxS), mask_BxS))
    return model.encode(x, mask, dropout=dropout), mask


def decode(
    model: Any,
    targets_BxT: Int[Array, "B T"],
    encoded_BxSxD: Float[Array, "B S D"],
    mask_BxS: Bool[Array, "B S"],
    dropout: Dropout | None = None,
) -> Float[Array, "B T V"]:
    """T5's decoder, fed the targets one step late."""
    start = jnp.full_like(targets_BxT[:, :1], model.config.decoder_start_id)
    decoder_inputs = jnp.concatenate([start, targets_BxT[:, :-1]], axis=1)
    x = model.embed(decoder_inputs)
    return model.unembed(model.decode(x, encoded_BxSxD, mask_BxS, dropout=dropout))


def causal_target_logits(
    model: Any, batch: Batch, prompt: AnyPrompt, dropout: Dropout | None = None
) -> Float[Array, "B T V"]:
    """A causal model over prompt, input and target without a gap between them."""
    inputs, targets = batch["inputs"], batch["targets"]
    lengths_B = jnp.sum(batch["input_mask"], axis=1, dtype=jnp.int32)
    ids = join(inputs, lengths_B, targets)
    x = model.embed(ids)
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
    if prompt is None or isinstance(prompt, Past):
        return prompt
    dtype = model.embedding[...].dtype
    if isinstance(prompt, RowPrompts):
        return model.prefix(prompt.vectors.astype(dtype), prompt.mask)
    return model.prefix(prompt.astype(dtype)[None])


def _vectors_first(prompt: AnyPrompt, x: Array, mask: Array) -> tuple[Any, ...]:
    """Arguments of `prepend_prompt` for either kind of prompt."""
    if isinstance(prompt, RowPrompts):
        return prompt.vectors, x, mask, prompt.mask
    return prompt, x, mask


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
