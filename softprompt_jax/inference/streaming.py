"""Answers a few tokens at a time, for people who watch and for strings that end an answer."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from softprompt_jax.data.tokenization import decode_answers
from softprompt_jax.inference import compiled
from softprompt_jax.inference.compiled import Numbers, Rows, Search
from softprompt_jax.models import LanguageModel

STEPS = 4
"""Tokens between two looks at the answers: each look waits for the device."""


def generate_in_steps(
    graphdef: Any,
    search: Search,
    state_and_bank: tuple[Any, Any],
    rows: Rows,
    numbers: Numbers,
    index: np.ndarray,
    model: LanguageModel,
    stop: Sequence[str],
    on_text: Callable[[int, str], None] | None,
) -> list[str]:
    """The answers of a batch, cut before the first stop string.

    Args:
        graphdef: of the model.
        search: without beams.
        state_and_bank: of the model, and the prompts.
        rows: the batch.
        numbers: of sampling.
        index: place of each row's text in the whole call, -1 for padding.
        model: gives tokenizer and config.
        stop: strings that end an answer.
        on_text: called with that place and each new piece of the answer.
    """
    state, bank = state_and_bank
    decodes = compiled.start(graphdef, search.max_new_tokens, state, bank, rows)
    ended = index < 0
    told = [""] * len(index)
    final = [""] * len(index)
    step = 0
    while step < search.max_new_tokens and not ended.all():
        decodes = decodes._replace(ended=jax.device_put(ended, decodes.ended.sharding))
        decodes = compiled.advance(graphdef, search, state, decodes, np.int32(STEPS), rows, numbers)
        step, ids, now_ended = jax.device_get((decodes.step, decodes.ids, decodes.ended))
        for row in np.flatnonzero(~ended):
            (text,) = decode_answers(ids[row : row + 1, :step], model.tokenizer, model.config)
            ends = bool(now_ended[row]) or step == search.max_new_tokens
            cuts = [at for each in stop if (at := text.find(each)) >= 0]
            if cuts:
                text, ends = text[: min(cuts)], True
            final[row] = text
            sure = text if ends else text[: _sure_length(text, stop)]
            if on_text is not None and len(sure) > len(told[row]):
                # Should a decoder see earlier text in another light, what was told stays told, and
                # what is new from there on is told all the same.
                on_text(int(index[row]), sure[_common_length(told[row], sure) :])
                told[row] = sure
            ended[row] = ends
    return final


def _common_length(one: str, other: str) -> int:
    """How many characters both begin with; the first one is the shorter."""
    return next((i for i, letter in enumerate(one) if letter != other[i]), len(one))


def _sure_length(text: str, stop: Sequence[str]) -> int:
    """How much of an unfinished answer no token to come can change or cut off."""
    end = len(text)
    while end and text[end - 1] == "\ufffd":  # half a character, to be completed
        end -= 1
    for each in stop:
        for length in range(min(len(each) - 1, end), 0, -1):
            if text[:end].endswith(each[:length]):
                end -= length
                break
    return end
