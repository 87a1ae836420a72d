"""From rows to answers: a row that cannot be answered disturbs no other."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from softprompt_jax.data.tokenization import encode_choices, without_prefix
from softprompt_jax.errors import UserError
from softprompt_jax.inference.batching import padded_count, power_of_two
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.inference.row_files import BadRow, Row

MOST_CHOICE_TOKENS = 2048
"""Tokens of a row's choices together, padded as `pad_choices` does: a causal model has them in one
sequence, whose memory grows with its square. A prompt's own labels may have more."""


class _Kind(NamedTuple):
    """Rows of one kind are answered in one call.

    Attributes:
        choices: number of choices, padded as `pad_choices` does; 0 to generate text.
        tokens: of the answer at most; of choices likewise padded.
    """

    choices: int
    tokens: int


class Answerer:
    """Answers rows with a predictor.

    Whatever the predictor could refuse in a row is found before the row is batched with others.

    Args:
        predictor: with the prompts that the rows name.
        max_input_length: tokens of a text, and of a choice, at most.
        max_new_tokens: tokens to generate at most.
        labels: of each prompt by name, which may be many; None: no prompt has any.
        prefixes: what each prompt was trained to say before an answer; None: nothing. It is put
            before choices and taken off answers.
        seed: of what is drawn.
        **search: temperature, top_k, top_p, beams, length_penalty and stop as for
            `Predictor.generate`.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        max_input_length: int,
        max_new_tokens: int,
        labels: Mapping[str, Sequence[str]] | None = None,
        prefixes: Mapping[str, str] | None = None,
        seed: int = 0,
        **search: Any,
    ):
        self._predictor = predictor
        self._max_input_length = max_input_length
        self._text = _Kind(0, max_new_tokens)
        self._labels = {name: tuple(own) for name, own in (labels or {}).items()}
        self._prefixes = prefixes or {}
        self._seed = seed
        self._search = search

    def __call__(self, rows: Sequence[Row | BadRow]) -> list[dict[str, Any]]:
        """The answers to rows that are neighbours in a file, in order: JSON-able objects.

        The same rows together give the same bits.
        """
        answers: dict[int, dict[str, Any]] = {}
        kinds: dict[_Kind, list[Row]] = {}
        for row, found in self._sorted(rows):
            if isinstance(found, BadRow):
                answers[found.line] = found.as_dict()
            else:
                kinds.setdefault(found, []).append(row)
        for kind, members in kinds.items():
            answer = self._generate if kind == self._text else self._score
            answers.update({row["line"]: row for row in answer(members)})
        return [answers[row.line] for row in rows]

    def _sorted(self, rows: Sequence[Row | BadRow]) -> Iterator[tuple[Any, _Kind | BadRow]]:
        """Each row with the kind that it is of, or why it cannot be answered."""
        lengths = iter(self._lengths([row.text for row in rows if isinstance(row, Row)]))
        # By choices as they are scored: their kind and the longest one's tokens.
        known: dict[tuple[str, ...], tuple[_Kind | str, int]] = {}
        for row in rows:
            if isinstance(row, BadRow):
                yield row, row
                continue
            length = next(lengths)
            kind: _Kind | str = self._text
            answer = self._text.tokens
            if row.choices is not None:
                said = self._said(row)
                kind, answer = known[said] = known.get(said) or self._kind(said)
            if not isinstance(kind, str):
                error = self._choices_error(row, kind) or self._length_error(row, length, answer)
                kind = error or kind
            yield row, BadRow(row.line, kind, row.named) if isinstance(kind, str) else kind

    def _lengths(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text; 0 for one that the tokenizer leaves nothing of."""
        try:
            return self._predictor.input_lengths(texts)
        except UserError:  # which names one of them only
            return [self._length(text) for text in texts]

    def _length(self, text: str) -> int:
        try:
            return self._predictor.input_lengths([text])[0]
        except UserError:
            return 0

    def _kind(self, choices: tuple[str, ...]) -> tuple[_Kind | str, int]:
        """The kind of rows with these choices, or why there is none; and the longest's tokens."""
        model = self._predictor.model
        try:
            ids = encode_choices(choices, model.tokenizer, model.config)
        except UserError as error:
            return str(error), 0
        longest, most = max(map(len, ids)), self._max_input_length
        if longest > most:
            error = f"A choice has {longest} tokens, but at most {most} are read; shorten it."
            return error, longest
        return _Kind(padded_count(len(ids)), power_of_two(longest)), longest

    def _said(self, row: Row) -> tuple[str, ...]:
        """A row's choices as its prompt was trained to say them."""
        prefix = self._prefixes.get(row.prompt, "")
        return tuple(prefix + choice for choice in row.choices or ())

    def _choices_error(self, row: Row, kind: _Kind) -> str | None:
        tokens = kind.choices * kind.tokens
        if tokens <= MOST_CHOICE_TOKENS or row.choices == self._labels.get(row.prompt):
            return None
        return (
            f"The row's choices have {tokens} tokens, each padded to the longest, but at most "
            f"{MOST_CHOICE_TOKENS} are scored together; give fewer or shorter ones."
        )

    def _length_error(self, row: Row, length: int, answer: int) -> str | None:
        if length == 0:
            return "The row's text has no tokens."
        most = self._max_input_length
        room = self._predictor.longest_input(row.prompt, answer)
        if room is not None:
            most = max(min(most, room), 0)
        if length <= most:
            return None
        return f"The row's text has {length} tokens, but at most {most} are read; shorten it."

    def _score(self, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
        texts, prompts = [row.text for row in rows], [row.prompt for row in rows]
        scores = self._predictor.score(texts, [self._said(row) for row in rows], prompts)
        for row, each in zip(rows, scores, strict=True):
            names = row.choices or ()
            if not np.isfinite(each).all():
                yield BadRow(row.line, "The scores are not finite.", row.named).as_dict()
                continue
            told = {name: round(float(score), 6) for name, score in zip(names, each, strict=True)}
            yield {**_head(row), "prediction": names[int(each.argmax())], "scores": told}

    def _generate(self, rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
        texts = self._predictor.generate(
            [row.text for row in rows],
            [row.prompt for row in rows],
            self._text.tokens,
            seed=self._seed,
            numbers=[row.line for row in rows],
            **self._search,
        )
        for row, text in zip(rows, texts, strict=True):
            prefix = self._prefixes.get(row.prompt)
            answer = without_prefix(text, prefix) if prefix else text
            yield {**_head(row), "prediction": answer}


def _head(row: Row) -> dict[str, Any]:
    return {"line": row.line, **row.named, "prompt": row.prompt}
