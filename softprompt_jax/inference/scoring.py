"""Log-likelihoods of candidate answers (rank classification)."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from softprompt_jax.models.attention import count_real, last_real, token_positions
from softprompt_jax.prompts.prompted_model import (
    AnyPrompt,
    Batch,
    add_offsets,
    decoder_past,
    encode,
    prompt_past,
    target_logits,
)


def choice_log_likelihoods(
    model: Any,
    batch: Batch,
    choices: Int[Array, "C T"] | Int[Array, "B C T"],
    choice_mask: Bool[Array, "C T"] | Bool[Array, "B C T"],
    prompt: AnyPrompt,
) -> Float[Array, "B C"]:
    """Log-likelihood of every choice for every row, summed over the choice's tokens.

    All choices are in one sequence beside the input, which is computed once a row: each choice's
    tokens see the input and their own predecessors, not the other choices. (T5's encoder runs once
    a row, and the choices share its decoder's sequence.)

    Args:
        model: `T5`, `Llama` or `GPT2`.
        batch: `inputs` and `input_mask`, int32 and bool [B, S], padded on the right (for causal
            models: anywhere).
        choices: token ids, padded on the right; the same for all rows or each row's own.
        choice_mask: True for real tokens.
        prompt: of any kind, or None.

    Returns:
        float32 [B, C], in nats; 0 for a choice without tokens.

    Raises:
        UserError: the sequence could become longer than the model's limit. Where each row has
            choices of its own, only the caller can tell their lengths, and has to see to it.
    """
    rows = batch["inputs"].shape[0]
    choices_BxCxT, mask_BxCxT = (
        jnp.broadcast_to(jnp.asarray(x), (rows, *x.shape[-2:])) for x in (choices, choice_mask)
    )
    _, n_choices, length = choices_BxCxT.shape
    # Every choice is fed the same first token (T5's start, the input's last), which is there once,
    # and then its own tokens but the last: the tail of R = C * (T-1) tokens.
    tail = _Tail(
        choices_BxCxT[:, :, :-1].reshape(rows, -1), n_choices, length - 1, choices.ndim == 2
    )
    logits_of = _decoder_logits if model.config.is_encoder_decoder else _causal_logits
    logits = logits_of(model, batch, tail, prompt)
    # The logits of token t of choice c are the first ones or those after the tail's token t - 1.
    after_tail = 1 + np.arange(n_choices * (length - 1)).reshape(n_choices, length - 1)
    source_CxT = np.pad(after_tail, ((0, 0), (1, 0)))
    row_Bx1x1 = np.arange(rows)[:, None, None]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    log_probs = logits[row_Bx1x1, source_CxT[None], choices_BxCxT] - log_z[:, source_CxT]
    return jnp.sum(jnp.where(mask_BxCxT, log_probs, 0.0), axis=2)


class _Tail(NamedTuple):
    """The fed tokens of all choices, one choice after the other, padded to one length.

    `common`: whether all rows have the same choices.
    """

    ids_BxR: Int[Array, "B R"]  # noqa: N815 (shape suffix)
    n_choices: int
    length: int
    common: bool

    def steps(self) -> Int[np.ndarray, " R"]:
        """How many tokens of its own choice each follows."""
        return np.tile(np.arange(self.length, dtype=np.int32), self.n_choices)

    def visible(self, before: int) -> Bool[np.ndarray, "L L"]:
        """What a sequence of so many common tokens and then this tail sees of itself."""
        choice_R = np.repeat(np.arange(self.n_choices), self.length)
        visible = np.tri(before + len(choice_R), dtype=bool)
        visible[before:, before:] &= choice_R[:, None] == choice_R[None]
        return visible


def _decoder_logits(
    model: Any, batch: Batch, tail: _Tail, prompt: AnyPrompt
) -> Float[Array, "B 1+R V"]:
    """T5's logits after its start token and after each token of the tail."""
    encoded, mask = encode(model, batch["inputs"], batch["input_mask"], prompt)
    start_Bx1 = jnp.full_like(tail.ids_BxR, model.config.decoder_start_id, shape=(len(encoded), 1))
    x = model.embed(jnp.concatenate([start_Bx1, tail.ids_BxR], axis=1))
    positions = np.concatenate([np.zeros(1, np.int32), 1 + tail.steps()])
    visible = tail.visible(before=1)
    past = decoder_past(prompt)
    return model.unembed(
        model.decode(x, encoded, mask, positions_T=positions, visible_TxT=visible, past=past)
    )


def _causal_logits(
    model: Any, batch: Batch, tail: _Tail, prompt: AnyPrompt
) -> Float[Array, "B 1+R V"]:
    """A causal model's logits after the input's last token and after each token of the tail."""
    inputs, mask_BxS = batch["inputs"], batch["input_mask"]
    rows, length = inputs.shape
    past = prompt_past(model, prompt)
    shared, in_past = 0, 0
    if past is not None:
        columns = past.layers[0].keys.shape[2]
        shared, in_past = (columns, columns) if past.mask is None else (0, count_real(past.mask))
    if tail.common:
        model.check_length(shared + length + tail.length)
    text_end_B = count_real(mask_BxS) + in_past
    tail_at = length + np.arange(tail.ids_BxR.shape[1], dtype=np.int32)[None].repeat(rows, axis=0)
    x = model.embed(jnp.concatenate([inputs, tail.ids_BxR], axis=1))
    is_input = jnp.concatenate([mask_BxS, jnp.zeros(tail.ids_BxR.shape, bool)], axis=1)
    h = model(
        add_offsets(prompt, x, is_input),
        jnp.concatenate([mask_BxS, jnp.ones(tail.ids_BxR.shape, bool)], axis=1),
        at_BxT=jnp.concatenate([last_real(mask_BxS)[:, None], tail_at], axis=1),
        past=past,
        positions_BxL=jnp.concatenate(
            [token_positions(mask_BxS, length, in_past), text_end_B[:, None] + tail.steps()[None]],
            axis=1,
        ),
        visible_LxL=tail.visible(before=length),
    )
    return model.unembed(h)


def target_log_likelihoods(model: Any, batch: Batch, prompt: AnyPrompt) -> Float[Array, " B"]:
    """Log-likelihood of each row's own target, summed over its real tokens.

    Args:
        model: `T5`, `Llama` or `GPT2`.
        batch: `inputs`, `input_mask`, `targets` and `target_mask`, [B, S] and [B, T], padded on the
            right.
        prompt: of any kind, or None.

    Returns:
        float32 [B], in nats; 0 for a row without a target.
    """
    log_probs = jax.nn.log_softmax(target_logits(model, batch, prompt))
    tokens = jnp.take_along_axis(log_probs, batch["targets"][..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(batch["target_mask"], tokens, 0.0), axis=1)
