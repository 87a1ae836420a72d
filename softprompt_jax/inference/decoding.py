"""Greedy decoding with static shapes in one `lax.while_loop`."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from softprompt_jax.prompts.prompted_model import (
    AnyPrompt,
    Batch,
    causal_target_logits,
    decode,
    encode,
)

NextLogits = Callable[[jax.Array, jax.Array], jax.Array]
"""From the answer so far, int32 [B, N], and its length to the next token's logits [B, V]."""


def greedy(
    model: Any, batch: Batch, prompt: AnyPrompt, max_new_tokens: int
) -> Int[Array, "B max_new_tokens"]:
    """The likeliest next token, again and again, until every row has ended.

    T5's encoder runs once; each further token runs the decoder (for causal models: the model) over
    what is there so far.

    Args:
        model: `T5`, `Llama` or `GPT2`.
        batch: `inputs` and `input_mask`, int32 and bool [B, S], padded on the right.
        prompt: one prompt for all rows, one a row, or None.
        max_new_tokens: length of the answer at most, its end-of-sequence token included.

    Returns:
        int32 ids; after a row's end-of-sequence token, `config.pad_id`.
    """
    rows = batch["inputs"].shape[0]
    eos_ids = jnp.asarray(model.config.eos_ids, jnp.int32)
    prepare = _decoder_step if model.config.is_encoder_decoder else _causal_step
    next_logits = prepare(model, batch, prompt, max_new_tokens)

    def going_on(carry):
        step, _, ended_B = carry
        return (step < max_new_tokens) & ~jnp.all(ended_B)

    def advance(carry):
        step, ids_BxN, ended_B = carry
        token_B = jnp.argmax(next_logits(ids_BxN, step), axis=-1).astype(jnp.int32)
        token_B = jnp.where(ended_B, model.config.pad_id, token_B)
        ids_BxN = jax.lax.dynamic_update_index_in_dim(ids_BxN, token_B, step, axis=1)
        ended_B = ended_B | jnp.any(token_B[:, None] == eos_ids[None], axis=1)
        return step + 1, ids_BxN, ended_B

    start = (
        jnp.zeros((), jnp.int32),
        jnp.full((rows, max_new_tokens), model.config.pad_id, jnp.int32),
        jnp.zeros((rows,), bool),
    )
    return jax.lax.while_loop(going_on, advance, start)[1]


def _decoder_step(model: Any, batch: Batch, prompt: AnyPrompt, max_new_tokens: int) -> NextLogits:
    encoded, mask = encode(model, batch["inputs"], batch["input_mask"], prompt)

    def next_logits(ids_BxN: jax.Array, step: jax.Array) -> jax.Array:
        logits = decode(model, ids_BxN, encoded, mask)
        return jax.lax.dynamic_index_in_dim(logits, step, axis=1, keepdims=False)

    return next_logits


def _causal_step(model: Any, batch: Batch, prompt: AnyPrompt, max_new_tokens: int) -> NextLogits:
    lengths_B = jnp.sum(batch["input_mask"], axis=1, dtype=jnp.int32)
    padded = jnp.pad(batch["inputs"], ((0, 0), (0, max_new_tokens)))
    into_answer = jnp.arange(padded.shape[1], dtype=jnp.int32)[None] - lengths_B[:, None]

    def next_logits(ids_BxN: jax.Array, step: jax.Array) -> jax.Array:
        # The answer so far becomes input; the one target position is the next token's.
        answer = jnp.take_along_axis(ids_BxN, jnp.clip(into_answer, 0, max_new_tokens - 1), axis=1)
        grown = {
            "inputs": jnp.where(into_answer < 0, padded, answer),
            "input_mask": into_answer < step,
            "targets": jnp.zeros((padded.shape[0], 1), jnp.int32),
        }
        return causal_target_logits(model, grown, prompt)[:, 0]

    return next_logits
