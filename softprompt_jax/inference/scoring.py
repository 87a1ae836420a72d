"""Log-likelihoods of candidate answers (rank classification)."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from softprompt_jax.prompts.prompted_model import (
    AnyPrompt,
    Batch,
    RowPrompts,
    causal_target_logits,
    decode,
    encode,
    target_logits,
)


def choice_log_likelihoods(
    model: Any,
    batch: Batch,
    choices_CxT: Int[Array, "C T"],
    choice_mask_CxT: Bool[Array, "C T"],
    prompt: AnyPrompt,
) -> Float[Array, "B C"]:
    """Log-likelihood of every choice for every row, summed over the choice's tokens.

    T5's encoder runs once a row. A causal model runs once a row where every choice is a single
    token, else once a row and choice.

    Args:
        model: `T5`, `Llama` or `GPT2`.
        batch: `inputs` and `input_mask`, int32 and bool [B, S], padded on the right.
        choices_CxT: token ids, padded on the right.
        choice_mask_CxT: True for real tokens.
        prompt: one prompt for all rows, one a row, or None.

    Returns:
        float32 [B, C], in nats.
    """
    inputs, input_mask = batch["inputs"], batch["input_mask"]
    rows, choices = inputs.shape[0], choices_CxT.shape[0]
    if not model.config.is_encoder_decoder and choices_CxT.shape[1] == 1:
        one_token = {
            "inputs": inputs,
            "input_mask": input_mask,
            "targets": jnp.zeros((rows, 1), jnp.int32),
        }
        logits_BxV = causal_target_logits(model, one_token, prompt)[:, 0]
        return jax.nn.log_softmax(logits_BxV)[:, choices_CxT[:, 0]]

    def each_choice(x: Array) -> Array:
        return jnp.repeat(x, choices, axis=0)

    targets = jnp.tile(choices_CxT, (rows, 1))
    if model.config.is_encoder_decoder:
        encoded, mask = encode(model, inputs, input_mask, prompt)
        logits = decode(model, targets, each_choice(encoded), each_choice(mask))
    else:
        if isinstance(prompt, RowPrompts):
            prompt = RowPrompts(each_choice(prompt.vectors), each_choice(prompt.mask))
        repeated = {
            "inputs": each_choice(inputs),
            "input_mask": each_choice(input_mask),
            "targets": targets,
        }
        logits = causal_target_logits(model, repeated, prompt)
    log_probs = jax.nn.log_softmax(logits)
    tokens = jnp.take_along_axis(log_probs, targets[..., None], axis=-1)[..., 0]
    real = jnp.tile(choice_mask_CxT, (rows, 1))
    return jnp.sum(jnp.where(real, tokens, 0.0), axis=1).reshape(rows, choices)


def target_log_likelihoods(model: Any, batch: Batch, prompt: AnyPrompt) -> Float[Array, " B"]:
    """Log-likelihood of each row's own target, summed over its real tokens.

    Args:
        model: `T5`, `Llama` or `GPT2`.
        batch: `inputs`, `input_mask`, `targets` and `target_mask`, [B, S] and [B, T], padded on the
            right.
        prompt: one prompt for all rows, one a row, or None.

    Returns:
        float32 [B], in nats; 0 for a row without a target.
    """
    log_probs = jax.nn.log_softmax(target_logits(model, batch, prompt))
    tokens = jnp.take_along_axis(log_probs, batch["targets"][..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(batch["target_mask"], tokens, 0.0), axis=1)
