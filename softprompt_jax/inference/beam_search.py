"""Beam search, with the results of transformers' `generate(num_beams=...)`.

Suffixes beside those of `decoding`: K beams, C candidates (of which K are taken on).

Beams share the keys and values of prompt and input. What they decode goes to one column a beam and
step and stays there: a beam is the list of columns that it sees, and only such lists are reordered.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from softprompt_jax.inference.decoding import Context, next_logits, open_context
from softprompt_jax.prompts.prompted_model import AnyPrompt, Batch

_NEVER = -1e9
"""Score of what must not be chosen."""


class Beams(NamedTuple):
    """The answers of a beam search, the best first.

    Attributes:
        ids: int32 [B, K, N]; padding after the end of sequence.
        scores: float32 [B, K], log-likelihood divided by length ** length_penalty; -1e9 or less for
            a beam that never ended.
    """

    ids: Int[Array, "B K N"]
    scores: Float[Array, "B K"]


class _State(NamedTuple):
    """Step, running beams, finished beams, and which rows may still improve."""

    step: Int[Array, ""]
    ids: Int[Array, "B K N"]
    scores: Float[Array, "B K"]
    last: Int[Array, "B K"]
    seen: Bool[Array, "B K R"]
    finished: Beams
    has_ended: Bool[Array, "B K"]
    improvable: Bool[Array, " B"]
    context: Context


def beam_search(
    model: Any,
    batch: Batch,
    prompt: AnyPrompt,
    max_new_tokens: int,
    *,
    beams: int,
    length_penalty: float = 1.0,
    early_stopping: bool = False,
) -> Beams:
    """The likeliest answers that a search along so many beams finds.

    Args:
        model: `T5`, `Llama` or `GPT2`.
        batch: as for `open_context`.
        prompt: likewise.
        max_new_tokens: length of an answer at most, its end-of-sequence token included.
        beams: K, at least 1.
        length_penalty: answers compare by log-likelihood / length ** length_penalty; above 0
            favours longer ones.
        early_stopping: whether a row is done as soon as K answers have ended; else when the best
            running beam, at its present length, scores below the worst of them.

    Raises:
        UserError: as `open_context`.

    References:
        `_beam_search` of transformers 5, whose rules for ending these are; Wu et al. 2016,
        "Google's Neural Machine Translation System", section 7, for the length penalty's idea.
    """
    rows = batch["inputs"].shape[0]
    eos_ids = jnp.asarray(model.config.eos_ids, jnp.int32)
    # More candidates than can end at once, so that K of them go on.
    n_candidates = max(2, 1 + len(model.config.eos_ids)) * beams
    penalties_N = jnp.asarray(
        np.arange(1, max_new_tokens + 1, dtype=np.float64) ** length_penalty, jnp.float32
    )
    first_B, context = open_context(model, batch, prompt, max_new_tokens, beams)
    column_R = jnp.arange(max_new_tokens * beams, dtype=jnp.int32)
    own_KxR = column_R[None] % beams == jnp.arange(beams, dtype=jnp.int32)[:, None]

    def row_done(state: _State) -> Array:
        all_ended_B = jnp.all(state.has_ended, axis=1)
        return ~state.improvable | (all_ended_B if early_stopping else False)

    def going_on(state: _State) -> Array:
        return (state.step < max_new_tokens) & ~jnp.all(row_done(state))

    def advance(state: _State) -> _State:
        step = state.step
        now_R = column_R // beams == step
        seen = state.seen | (now_R[None] & own_KxR)[None]
        logits_BxKxV, context = next_logits(model, state.context, state.last, step, seen)
        log_probs = jax.nn.log_softmax(logits_BxKxV) + state.scores[..., None]
        n_tokens = log_probs.shape[-1]
        scores_BxC, index_BxC = jax.lax.top_k(log_probs.reshape(rows, -1), n_candidates)
        parent_BxC, token_BxC = index_BxC // n_tokens, index_BxC % n_tokens
        ids_BxCxN = _take(state.ids, parent_BxC).at[:, :, step].set(token_BxC)
        ends = jnp.any(token_BxC[..., None] == eos_ids[None, None], axis=-1)
        ends = ends | (step == max_new_tokens - 1)

        running, chosen_BxK = jax.lax.top_k(scores_BxC + _never(ends), beams)
        penalised = scores_BxC / penalties_N[step] + _never(row_done(state))[:, None]
        finished, has_ended = _finish(state, ids_BxCxN, penalised, ends)

        # Rows where no running beam can do better stay as they are.
        best_B = running[:, 0] / penalties_N[step]
        worst_BxK = jnp.where(has_ended, jnp.min(finished.scores, axis=1)[:, None], _NEVER)
        improvable = state.improvable & jnp.any(best_B[:, None] > worst_BxK, axis=1)
        return _State(
            step=step + 1,
            ids=_take(ids_BxCxN, chosen_BxK),
            scores=running,
            last=_take(token_BxC, chosen_BxK),
            seen=_take(seen, _take(parent_BxC, chosen_BxK)),
            finished=finished,
            has_ended=has_ended,
            improvable=improvable,
            context=context,
        )

    # Before the first step all beams are alike: only the first may have successors.
    scores_K = jnp.where(jnp.arange(beams) == 0, 0.0, _NEVER).astype(jnp.float32)
    empty = jnp.full((rows, beams, max_new_tokens), model.config.pad_id, jnp.int32)
    state = _State(
        step=jnp.zeros((), jnp.int32),
        ids=empty,
        scores=jnp.broadcast_to(scores_K[None], (rows, beams)),
        last=jnp.broadcast_to(first_B[:, None], (rows, beams)),
        seen=jnp.zeros((rows, beams, max_new_tokens * beams), bool),
        finished=Beams(empty, jnp.full((rows, beams), _NEVER, jnp.float32)),
        has_ended=jnp.zeros((rows, beams), bool),
        improvable=jnp.any(batch["input_mask"], axis=1),
        context=context,
    )
    return jax.lax.while_loop(going_on, advance, state).finished


def _finish(
    state: _State,
    ids_BxCxN: Int[Array, "B C N"],
    scores_BxC: Float[Array, "B C"],
    ends_BxC: Bool[Array, "B C"],
) -> tuple[Beams, Bool[Array, "B K"]]:
    """The best K of the finished beams and the candidates that end, and which of them ended."""
    beams = state.scores.shape[1]
    # Candidates beyond the first K are there only to go on.
    ended_BxC = ends_BxC & (jnp.arange(ends_BxC.shape[1]) < beams)[None]
    merged = jnp.concatenate([state.finished.scores, scores_BxC + _never(~ended_BxC)], axis=1)
    scores_BxK, kept_BxK = jax.lax.top_k(merged, beams)
    ids = _take(jnp.concatenate([state.finished.ids, ids_BxCxN], axis=1), kept_BxK)
    has_ended = _take(jnp.concatenate([state.has_ended, ended_BxC], axis=1), kept_BxK)
    return Beams(ids, scores_BxK), has_ended


def _never(where: Array) -> Array:
    """Added to scores: next to nothing remains of those where this is true."""
    return where.astype(jnp.float32) * _NEVER


def _take(values_BxI: Array, index_BxJ: Array) -> Array:
    """[B, J, ...]: for each row the entries at its indexes."""
    return jax.vmap(lambda values, index: values[index])(values_BxI, index_BxJ)
