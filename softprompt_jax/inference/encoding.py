"""Texts and choices as people give them, as token ids."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from softprompt_jax.data.tokenization import encode_choices, encode_inputs
from softprompt_jax.errors import UserError
from softprompt_jax.models import LanguageModel

Texts = Sequence[str] | Sequence[Sequence[int]] | np.ndarray
"""Inputs as the task words them, or their token ids as the model reads them; a list, or another
sequence such as an array or a table's column."""


def listed(texts: Texts) -> list[Any]:
    """The texts as a list, which a sequence of any kind becomes.

    Raises:
        UserError: they are a single string.
    """
    if isinstance(texts, str):
        raise UserError("The texts are a single string; give a list of strings.")
    return list(texts)


def encode_rows(texts: Texts, model: LanguageModel) -> list[list[int]]:
    """The ids of texts; those of texts that are ids already.

    Raises:
        UserError: a text is empty, a row is neither text nor the model's ids, or some are the one
            and some the other.
    """
    texts = listed(texts)
    words = [isinstance(text, str) for text in texts]
    if all(words):
        return encode_inputs(texts, model.tokenizer, model.config)[0]
    size = model.config.vocab_size
    rows: list[list[int]] = []
    for i, text in enumerate(texts):
        row = list(text) if isinstance(text, Iterable) else []
        ids = row and all(isinstance(t, int | np.integer) and 0 <= t < size for t in row)
        if not ids and not words[i]:
            raise UserError(
                f"Input {i} (counted from 0) is no text and no ids below {size}; mend it."
            )
        rows.append(row)
    if any(words):
        raise UserError(
            f"Input {words.index(True)} (counted from 0) is a text, but input "
            f"{words.index(False)} is ids; give texts only or ids only."
        )
    return rows


def encode_choice_lists(
    each: Sequence[Sequence[str]], model: LanguageModel
) -> list[list[list[int]]]:
    """The ids of each text's choices; a list of choices that comes again is encoded once.

    Raises:
        UserError: choices cannot be told apart, or are no list of strings.
    """
    known: dict[tuple[str, ...], list[list[int]]] = {}
    keys: list[tuple[str, ...]] = []
    for choices in each:
        if isinstance(choices, str):
            raise UserError(f"The choices {choices!r} are a string; give lists of strings.")
        key = tuple(choices) if isinstance(choices, Iterable) else (choices,)
        if key not in known:
            if not all(isinstance(choice, str) for choice in key):
                raise UserError(f"The choices {choices!r} are not all strings; mend them.")
            known[key] = encode_choices(key, model.tokenizer, model.config)
        keys.append(key)
    return [known[key] for key in keys]
