"""Decoding with a cache of static shape: the input once, then one token a row and step.

Suffixes beside those of `models.layers`: N new tokens at most, M columns of the cache that prompt
and input fill, R columns after them for what is decoded.

In a causal model's cache prompt and input stand as they came, padding included: masks and positions
tell the real columns. Every row's token of a step goes to one column, whatever the rows' lengths.
The first token that is decoded from is the input's last one, as T5's is its start token, so that
both families go through the same loop and the vocabulary is projected to in one place only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from softprompt_jax.models.attention import (
    KeysValues,
    count_real,
    join_keys_values,
    last_real,
    token_positions,
)
from softprompt_jax.prompts.prompted_model import (
    AnyPrompt,
    Batch,
    OffsetPrompt,
    add_offsets,
    decoder_past,
    encode,
    prompt_past,
)

Choose = Callable[[Float[Array, "B V"], Int[Array, ""]], Int[Array, " B"]]
"""From the next token's logits and the number of the step to the token."""


class Context(NamedTuple):
    """All that decoding takes from prompt and input, and room for what is decoded.

    Attributes:
        layers: each layer's keys and values of self-attention, [B, G, M+R, K]; for T5 M counts
            what the prompt puts before the decoder's tokens, most often nothing.
        mask: bool [B, M], True for real columns (T5: [1, M]).
        cross: T5: each layer's keys and values of cross-attention; else none.
        cross_mask: T5: bool [B, P+S], True for real encoder inputs; else None.
        first_offset: [B, D], what a causal model's prompt adds to the embedding of the first token
            to decode from, which is the input's last; None: nothing.
    """

    layers: list[KeysValues]
    mask: Bool[Array, "B M"]
    cross: list[KeysValues]
    cross_mask: Bool[Array, "B S"] | None
    first_offset: Float[Array, "B D"] | None = None


def open_context(
    model: Any, batch: Batch, prompt: AnyPrompt, max_new_tokens: int, beams: int = 1
) -> tuple[Int[Array, " B"], Context]:
    """Runs prompt and input through the model, once.

    Args:
        model: `T5`, `Llama` or `GPT2`.
        batch: `inputs` and `input_mask`, int32 and bool [B, S], padded on the right (for causal
            models: anywhere). A row without any real token only fills up the batch.
        prompt: of any kind, or None.
        max_new_tokens: steps that will be decoded at most.
        beams: tokens a row and step.

    Returns:
        The token of each row to decode from first, and the context.

    Raises:
        UserError: the sequence could become longer than the model's limit. Where each row has a
            prompt of its own, only the caller can tell their lengths, and has to see to it.
    """
    inputs, mask_BxS = batch["inputs"], batch["input_mask"]
    rows, room = inputs.shape[0], max_new_tokens * beams
    if model.config.is_encoder_decoder:
        encoded, cross_mask = encode(model, inputs, mask_BxS, prompt)
        cross = model.cross(encoded)

        def nothing_yet(x: Array) -> Array:
            return jnp.zeros((*x.shape[:2], room, x.shape[3]), x.dtype)

        # Heads of self- and cross-attention are alike in number and width.
        layers = jax.tree.map(nothing_yet, cross)
        earlier, columns = decoder_past(prompt), 0
        if earlier is not None:
            layers = [join_keys_values(*each) for each in zip(earlier, layers, strict=True)]
            columns = earlier[0].keys.shape[2]
        first_B = jnp.full((rows,), model.config.decoder_start_id, jnp.int32)
        return first_B, Context(layers, jnp.ones((1, columns), bool), cross, cross_mask)

    last_B = last_real(mask_BxS)
    first_B = jnp.take_along_axis(inputs, last_B[:, None], axis=1)[:, 0]
    # The last token comes again as the first to decode from: here it is hidden like padding.
    column_S = jnp.arange(inputs.shape[1], dtype=jnp.int32)
    earlier_BxS = mask_BxS & (column_S[None] != last_B[:, None])
    before = prompt_past(model, prompt)
    x = model.embed(inputs)
    past = model.prefix(add_offsets(prompt, x, mask_BxS), earlier_BxS, before)
    shared = past.mask.shape[1] if before is None or before.mask is None else inputs.shape[1]
    model.check_length(shared + max_new_tokens - 1)
    more = ((0, 0), (0, 0), (0, room), (0, 0))
    layers = jax.tree.map(lambda x: jnp.pad(x, more), past.layers)
    first_offset = None
    if isinstance(prompt, OffsetPrompt):
        offsets = add_offsets(prompt, jnp.zeros_like(x), mask_BxS)
        first_offset = jnp.take_along_axis(offsets, last_B[:, None, None], axis=1)[:, 0]
    return first_B, Context(layers, past.mask, [], None, first_offset)


def next_logits(
    model: Any,
    context: Context,
    ids_BxL: Int[Array, "B L"],
    step: Int[Array, ""],
    seen_BxLxR: Bool[Array, "B L R"],
) -> tuple[Float[Array, "B L V"], Context]:
    """Feeds L tokens a row, which all stand at position `step` of what is decoded.

    Args:
        model: `T5`, `Llama` or `GPT2`.
        context: what came before; room for R columns, of which step s fills L from s * L on.
        ids_BxL: the tokens.
        step: number of tokens decoded before, int32 scalar.
        seen_BxLxR: which of these columns each token sees, its own among them; one row may stand
            for all.

    Returns:
        Logits of what follows each token, and the context with these tokens in it.
    """
    rows, width = ids_BxL.shape
    room, before = seen_BxLxR.shape[2], context.mask.shape[1]
    column = before + step * width
    step_R = jnp.arange(room, dtype=jnp.int32) // width
    x = model.embed(ids_BxL)
    if context.first_offset is not None:
        x = x + jnp.where(step == 0, context.first_offset, 0)[:, None]
    if model.config.is_encoder_decoder:
        column_M = jnp.arange(before, dtype=jnp.int32)
        earlier = jnp.ones((*seen_BxLxR.shape[:2], before), bool)
        h, layers = model.extend(
            x,
            context.layers,
            column,
            context.cross,
            context.cross_mask,
            positions_L=jnp.broadcast_to(before + step[None], (width,)),
            positions_R=jnp.concatenate([column_M, before + step_R]),
            visible_BxLxR=jnp.concatenate([earlier, seen_BxLxR], axis=2),
        )
    else:
        length_Bx1 = count_real(context.mask)[:, None]
        seen = jnp.broadcast_to(seen_BxLxR, (rows, width, room))
        earlier = jnp.broadcast_to(context.mask[:, None, :], (rows, width, before))
        h, layers = model.extend(
            x,
            context.layers,
            column,
            positions_BxL=jnp.broadcast_to(length_Bx1 + step, (rows, width)),
            positions_BxS=jnp.concatenate(
                [token_positions(context.mask, before), length_Bx1 + step_R[None]], axis=1
            ),
            visible_BxLxS=jnp.concatenate([earlier, seen], axis=2),
        )
    return model.unembed(h), context._replace(layers=layers)


class DecodeState(NamedTuple):
    """A decode under way.

    Attributes:
        step: int32 scalar, number of tokens decoded.
        ids: int32 [B, N], these tokens; padding from `step` on and after an end of sequence.
        ended: bool [B], rows that take no more tokens. A caller may set more of them.
        last: int32 [B], the tokens to decode from next.
        context: what they follow.
    """

    step: Int[Array, ""]
    ids: Int[Array, "B N"]
    ended: Bool[Array, " B"]
    last: Int[Array, " B"]
    context: Context


def start(model: Any, batch: Batch, prompt: AnyPrompt, max_new_tokens: int) -> DecodeState:
    """A decode before its first step; arguments as of `open_context`.

    Rows that only fill up the batch have ended from the start.
    """
    rows = batch["inputs"].shape[0]
    last_B, context = open_context(model, batch, prompt, max_new_tokens)
    return DecodeState(
        step=jnp.zeros((), jnp.int32),
        ids=jnp.full((rows, max_new_tokens), model.config.pad_id, jnp.int32),
        ended=~jnp.any(batch["input_mask"], axis=1),
        last=last_B,
        context=context,
    )


def advance(
    model: Any, state: DecodeState, steps: Int[Array, ""] | int, choose: Choose | None = None
) -> DecodeState:
    """Decodes so many more tokens, fewer if every row has ended or there is no more room.

    To stream, call this in a loop: after each call `state.ids[:, :state.step]` is what there is.
    One compiled function serves any number of steps if that is one of its traced arguments.

    Args:
        model: as for `start`.
        state: what `start` or this function returned.
        steps: how many.
        choose: such as a `Sampler`; None: the likeliest token.
    """
    eos_ids = jnp.asarray(model.config.eos_ids, jnp.int32)
    room = state.ids.shape[1]
    step_R = jnp.arange(room, dtype=jnp.int32)
    until = jnp.minimum(state.step + steps, room)

    def going_on(state: DecodeState) -> Array:
        return (state.step < until) & ~jnp.all(state.ended)

    def decode_one(state: DecodeState) -> DecodeState:
        step, ids, ended, last, context = state
        seen = (step_R <= step)[None, None]
        logits_Bx1xV, context = next_logits(model, context, last[:, None], step, seen)
        token_B = (choose or likeliest)(logits_Bx1xV[:, 0], step)
        token_B = jnp.where(ended, model.config.pad_id, token_B)
        ids = jax.lax.dynamic_update_index_in_dim(ids, token_B, step, axis=1)
        ended = ended | jnp.any(token_B[:, None] == eos_ids[None], axis=1)
        return DecodeState(step + 1, ids, ended, token_B, context)

    return jax.lax.while_loop(going_on, decode_one, state)


def likeliest(logits_BxV: Float[Array, "B V"], step: Int[Array, ""]) -> Int[Array, " B"]:
    """The greedy choice."""
    return jnp.argmax(logits_BxV, axis=-1).astype(jnp.int32)


def generate(
    model: Any, batch: Batch, prompt: AnyPrompt, max_new_tokens: int, choose: Choose | None = None
) -> Int[Array, "B max_new_tokens"]:
    """Decodes until every row has ended.

    Args:
        model: `T5`, `Llama` or `GPT2`.
        batch: as for `open_context`.
        prompt: likewise.
        max_new_tokens: length of the answer at most, its end-of-sequence token included.
        choose: as for `advance`.

    Returns:
        int32 ids; after a row's end-of-sequence token, `config.pad_id`.

    Raises:
        UserError: as the model for too long a sequence.
    """
    state = start(model, batch, prompt, max_new_tokens)
    return advance(model, state, max_new_tokens, choose).ids


def greedy(
    model: Any, batch: Batch, prompt: AnyPrompt, max_new_tokens: int
) -> Int[Array, "B max_new_tokens"]:
    """`generate` with the likeliest token at every step."""
    return generate(model, batch, prompt, max_new_tokens)
