"""Texts and choices as people give them, as token ids."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from softprompt_jax.data.tokenization import encode_choices, encode_inputs
from softprompt_jax.errors import UserError
from softprompt_jax.models import LanguageModel

Texts = Sequence[str] | Sequence[Sequence[int]]
"""Inputs as the task words them, or their token ids as the model reads them."""


def encode_rows(texts: Texts, model: LanguageModel) -> list[list[int]]:
    """The ids of texts; those of texts that are ids already.

    Raises:
        UserError: a text is empty, or ids are not the model's.
    """
    if all(isinstance(text, str) for text in texts):
        words: Any = texts
        return encode_inputs(words, model.tokenizer, model.config)[0]
    rows: list[Any] = [list(text) for text in texts]
    for i, row in enumerate(rows):
        size = model.config.vocab_size
        if not row or not all(isinstance(t, int | np.integer) and 0 <= t < size for t in row):
            raise UserError(
                f"Input {i} (counted from 0) is no text and no ids below {size}; mend it."
            )
    return rows


def encode_choice_lists(
    each: Sequence[Sequence[str]], model: LanguageModel
) -> list[list[list[int]]]:
    """The ids of each text's choices; a list of choices that comes again is encoded once.

    Raises:
        UserError: choices cannot be told apart, or are no list.
    """
    known: dict[tuple[str, ...], list[list[int]]] = {}
    for choices in each:
        key = tuple(choices)
        if key not in known:
            if isinstance(choices, str):
                raise UserError(f"The choices {choices!r} are a string; give lists of strings.")
            known[key] = encode_choices(key, model.tokenizer, model.config)
    return [known[tuple(choices)] for choices in each]
