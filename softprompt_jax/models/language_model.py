"""A loaded language model: the frozen module, its tokenizer and a forward pass for people."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from softprompt_jax.errors import UserError
from softprompt_jax.models.checkpoints import fingerprint

if TYPE_CHECKING:  # the prompt knows the model; at run time the model need not know the prompt
    from softprompt_jax.prompts.soft_prompt import SoftPrompt


class LanguageModel:
    """A frozen T5, Llama-family or GPT-2 model with its tokenizer.

    Attributes:
        name: what `load_model` was asked for.
        module: the NNX module that holds the weights.
        config: the architecture, a `T5Config`, `LlamaConfig` or `GPT2Config`.
        raw_config: the parsed `config.json` that `config` was read from.
    """

    def __init__(
        self,
        *,
        name: str,
        module: Any,
        config: Any,
        raw_config: dict[str, Any],
        load_tokenizer: Callable[[], Any],
    ):
        self.name = name
        self.module = module
        self.config = config
        self.raw_config = raw_config
        self._load_tokenizer = load_tokenizer

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The transformers tokenizer, loaded on first use."""
        return self._load_tokenizer()

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits that tell this model's weights from another's, whatever their dtype."""
        return fingerprint(self.config, self.module)

    @property
    def d_model(self) -> int:
        """Width of the embeddings, and so of a prompt's vectors."""
        return self.config.d_model

    @property
    def is_encoder_decoder(self) -> bool:
        """True for T5, False for the causal models."""
        return self.config.is_encoder_decoder

    @functools.cached_property
    def _split(self) -> tuple[Any, Any]:
        return nnx.split(self.module)

    def logits(
        self,
        input_ids: Int[ArrayLike, "batch input_len"],
        attention_mask: Int[ArrayLike, "batch input_len"] | None = None,
        decoder_input_ids: Int[ArrayLike, "batch target_len"] | None = None,
        prompt: "SoftPrompt | Float[ArrayLike, 'length d_model'] | None" = None,
    ) -> Float[Array, "batch positions vocab"]:
        """Next-token logits, with the prompt directly before each row's first real token.

        Args:
            input_ids: token ids, padded on either side or not at all.
            attention_mask: 1 for real tokens, 0 for padding; None: all are real.
            decoder_input_ids: what the decoder reads; needed for T5, refused elsewhere.
            prompt: a `SoftPrompt` or its vectors; None: the plain model. On T5 it precedes the
                encoder's input only.

        Returns:
            float32 `[batch, target_len, vocab]` for T5 and `[batch, input_len, vocab]` for causal
            models: never a virtual position. At padding the values mean nothing.

        Raises:
            UserError: the prompt has another model's width or is more than vectors, or
                decoder_input_ids is missing or surplus.
        """
        if self.is_encoder_decoder and decoder_input_ids is None:
            raise UserError("An encoder-decoder model needs decoder_input_ids; give them.")
        if not self.is_encoder_decoder and decoder_input_ids is not None:
            raise UserError(f"{self.name} has no decoder of its own; leave decoder_input_ids out.")
        if hasattr(prompt, "served"):
            raise UserError("This prompt is more than vectors; use it with Predictor.")
        vectors = None if prompt is None else jnp.asarray(getattr(prompt, "vectors", prompt))
        if vectors is not None and (vectors.ndim != 2 or vectors.shape[1] != self.d_model):
            raise UserError(
                f"The prompt has shape {list(vectors.shape)}, but {self.name} needs "
                f"[length, {self.d_model}]; use a prompt that was trained for this model."
            )
        graphdef, state = self._split
        ids = jnp.asarray(input_ids, jnp.int32)
        mask = jnp.ones(ids.shape, bool) if attention_mask is None else jnp.asarray(attention_mask)
        mask = mask.astype(bool)
        if self.is_encoder_decoder:
            decoder_ids = jnp.asarray(decoder_input_ids, jnp.int32)
            return _encoder_decoder_logits(graphdef, state, ids, mask, decoder_ids, vectors)
        return _causal_logits(graphdef, state, ids, mask, vectors)


def prepend_prompt(
    prompt: Float[Array, "*rows length d_model"] | None,
    x_BxLxD: Float[Array, "batch len d_model"],
    mask_BxL: Bool[Array, "batch len"],
    prompt_mask_BxP: Bool[Array, "batch length"] | None = None,
) -> tuple[Float[Array, "batch length+len d_model"], Bool[Array, "batch length+len"]]:
    """Puts a prompt before embedded tokens, in the tokens' dtype.

    Args:
        prompt: `[length, d_model]`, the same for every row, or `[batch, length, d_model]`.
        x_BxLxD: embedded tokens.
        mask_BxL: True for real tokens.
        prompt_mask_BxP: False where a row's prompt is shorter; such padding must be on the left, so
            that the prompt stands directly before the text.
    """
    if prompt is None:
        return x_BxLxD, mask_BxL
    prompt = prompt.astype(x_BxLxD.dtype)
    if prompt.ndim == 2:
        prompt = jnp.broadcast_to(prompt[None], (x_BxLxD.shape[0], *prompt.shape))
    if prompt_mask_BxP is None:
        prompt_mask_BxP = jnp.ones(prompt.shape[:2], bool)
    return (
        jnp.concatenate([prompt, x_BxLxD], axis=1),
        jnp.concatenate([prompt_mask_BxP, mask_BxL], axis=1),
    )


@functools.partial(jax.jit, static_argnums=0)
def _causal_logits(graphdef, state, ids_BxL, mask_BxL, prompt_PxD):
    module = nnx.merge(graphdef, state)
    # Positions count real tokens only, so padding between prompt and text has no effect.
    x, mask = prepend_prompt(prompt_PxD, module.embed(ids_BxL), mask_BxL)
    h = module(x, mask)
    return module.unembed(h[:, x.shape[1] - ids_BxL.shape[1] :])


@functools.partial(jax.jit, static_argnums=0)
def _encoder_decoder_logits(graphdef, state, ids_BxS, mask_BxS, decoder_ids_BxT, prompt_PxD):
    module = nnx.merge(graphdef, state)
    # The encoder's relative positions go by sequence index: padding must not stand between the
    # prompt and the text. The decoder reaches the encoder through the mask, so order is free.
    order = jnp.argsort(~mask_BxS, axis=1, stable=True)
    ids = jnp.take_along_axis(ids_BxS, order, axis=1)
    mask = jnp.take_along_axis(mask_BxS, order, axis=1)
    x, mask = prepend_prompt(prompt_PxD, module.embed(ids), mask)
    encoded = module.encode(x, mask)
    return module.unembed(module.decode(module.embed(decoder_ids_BxT), encoded, mask))
