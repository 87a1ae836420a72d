"""What predictions are judged by, and what all metrics share."""

import dataclasses
import math
from collections.abc import Callable, Hashable, Iterable, Sequence

from softprompt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Reference:
    """What one prediction is judged by.

    Attributes:
        answers: the accepted answers, at least one; the first is the one to train on.
        group: rows with the same group are one question (MultiRC, ReCoRD); None: a row by itself.
        holds: whether the answer is the right one. Only WSC asks about wrong ones: there a
            prediction that differs from the answer is correct where this is False.
    """

    answers: tuple[str, ...]
    group: Hashable = None
    holds: bool = True

    def __post_init__(self):
        if isinstance(self.answers, str) or not self.answers:
            raise ValueError(f"answers {self.answers!r} must be one or more strings")


Metric = Callable[[Sequence[str], Sequence[Reference], Sequence[str]], float]
"""From predictions, references and the task's labels (none for free text) to a number."""


def check_lengths(predictions: Sequence[str], references: Sequence[Reference]) -> None:
    """Raises a ValueError unless there is one prediction a reference, and at least one."""
    if len(predictions) != len(references) or not references:
        raise ValueError(f"{len(predictions)} predictions for {len(references)} references")


def mean(rows: Iterable[float]) -> float:
    """The mean of numbers or truth values, rounded once."""
    values = list(rows)
    return math.fsum(values) / len(values)


def is_answer(prediction: str, reference: Reference) -> bool:
    """Whether a prediction equals one of the answers but for outer white space."""
    return prediction.strip() in [answer.strip() for answer in reference.answers]


def group_key(row: int, reference: Reference) -> tuple[bool, Hashable]:
    """What rows of the same question have in common, and no others."""
    # The flag keeps the row number of a row by itself apart from a group of that number.
    return (False, row) if reference.group is None else (True, reference.group)


def only_answers(metric: str, references: Sequence[Reference]) -> list[str]:
    """The answer of each row, for a metric that can do with one only.

    Raises:
        UserError: a row has several.
    """
    for row, reference in enumerate(references):
        if len(reference.answers) != 1:
            raise UserError(
                f"Row {row} (counted from 0) has {len(reference.answers)} accepted answers, and "
                f"the metric {metric} needs exactly one; use accuracy or squad_f1."
            )
    return [reference.answers[0].strip() for reference in references]
