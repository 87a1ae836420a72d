"""Metrics of tasks whose targets are labels or numbers.

A prediction that is none of the labels is wrong, in the way that T5 counts it. White space around
predictions and answers never matters.
"""

import math
from collections.abc import Hashable, Sequence

import numpy as np

from softprompt_jax.errors import UserError
from softprompt_jax.tasks.references import (
    Reference,
    check_lengths,
    group_key,
    is_answer,
    mean,
    only_answers,
)


def accuracy(
    predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]
) -> float:
    """Share of predictions that equal one of their answers, in [0, 1]."""
    check_lengths(predictions, references)
    return mean(is_answer(p, r) for p, r in zip(predictions, references, strict=True))


def macro_f1(
    predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]
) -> float:
    """Mean over classes of the F1 score of each class against the rest, in [0, 1].

    The classes are all labels of the task, or without labels those that occur in the references. A
    class that is neither predicted nor true scores 0. A prediction outside the classes is a miss of
    its true class and makes no class of its own, as scikit-learn's
    `f1_score(labels=classes, average="macro")`.

    Raises:
        UserError: a row has several answers, or one that is none of the labels.

    References:
        SuperGLUE (Wang et al. 2019), section 3: CB is scored by unweighted mean F1 over classes.
        T5 averages over its three classes, whether they occur or not.
    """
    predicted, true, classes = _class_ids("macro_f1", predictions, references, labels)
    hits = np.bincount(true[predicted == true], minlength=classes)
    known = predicted[predicted < classes]
    # F1 = 2 TP / (predicted + true)
    total = np.bincount(known, minlength=classes) + np.bincount(true, minlength=classes)
    return float(np.mean(2 * hits / np.maximum(total, 1)))


def f1(predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]) -> float:
    """F1 score of the second of two labels, in [0, 1].

    A prediction outside the labels counts as the wrong label, so on a negative row it is a false
    positive. Without any true or predicted positive it is 0.

    Raises:
        UserError: there are not exactly two labels, a row has several answers, or one that is none
            of the labels.

    References:
        GLUE (Wang et al. 2018), table 1, for MRPC and QQP; T5 for predictions outside the labels.
    """
    return _binary_f1("f1", predictions, references, labels)


def matthews(
    predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]
) -> float:
    """Matthews correlation of predicted and true classes, in [-1, 1].

    All predictions outside the labels together are one more class. 0 where all predictions, or all
    references, are of one class.

    Raises:
        UserError: a row has several answers, or one that is none of the labels.

    References:
        GLUE (Wang et al. 2018), table 1, for CoLA; for more than two classes Gorodkin 2004, as
        scikit-learn's `matthews_corrcoef`.
    """
    predicted, true, classes = _class_ids("matthews", predictions, references, labels)
    n, hits = len(true), int(np.sum(predicted == true))
    # Python's integers: the products below pass 2**63 from some 50,000 rows on.
    p = np.bincount(predicted, minlength=classes + 1).tolist()
    t = np.bincount(true, minlength=classes + 1).tolist()
    covariance = n * hits - _dot(p, t)
    spread = (n * n - _dot(p, p)) * (n * n - _dot(t, t))
    return covariance / math.sqrt(spread) if spread else 0.0


def multirc_f1a(
    predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]
) -> float:
    """`f1` over all rows, each of which asks whether one answer to a question is right.

    References:
        MultiRC (Khashabi et al. 2018), section 5, F1a.
    """
    return _binary_f1("multirc_f1a", predictions, references, labels)


def multirc_em(
    predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]
) -> float:
    """Share of groups in which every prediction equals one of its answers, in [0, 1].

    References:
        SuperGLUE (Wang et al. 2019), section 3: exact match over each question's answers.
    """
    check_lengths(predictions, references)
    right: dict[tuple[bool, Hashable], bool] = {}
    for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        group = group_key(row, reference)
        right[group] = right.get(group, True) and is_answer(prediction, reference)
    return mean(right.values())


def pearson(
    predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]
) -> float:
    """Pearson correlation of predicted and true numbers, in [-1, 1].

    A prediction that is no number counts as -1, as in T5, and so do nan and infinity. Where all
    predictions, or all references, are the same number, the correlation is undefined and counts
    as 0.

    Raises:
        UserError: an answer is no finite number, or a row has several.

    References:
        GLUE (Wang et al. 2018), table 1, for STS-B.
    """
    return _correlation(*_numbers("pearson", predictions, references))


def spearman(
    predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]
) -> float:
    """Spearman's rank correlation of predicted and true numbers, in [-1, 1].

    Equal numbers share the mean of their ranks; otherwise as `pearson`.

    Raises:
        UserError: as for `pearson`.
    """
    predicted, true = _numbers("spearman", predictions, references)
    return _correlation(_ranks(predicted), _ranks(true))


BINARY = ("f1", "multirc_f1a")
"""Metrics of the second of two labels."""


def check_labels(metric: str, labels: Sequence[str]) -> None:
    """Finds a task whose labels a metric cannot use, before anything is predicted.

    Raises:
        UserError: the metric needs exactly two labels.
    """
    if metric in BINARY and len(labels) != 2:
        raise UserError(
            f"The metric {metric} needs exactly two labels, the second of them positive, and the "
            f"task has {len(labels)}; use macro_f1 or accuracy."
        )


def _class_ids(
    metric: str,
    predictions: Sequence[str],
    references: Sequence[Reference],
    labels: Sequence[str],
) -> tuple[np.ndarray, np.ndarray, int]:
    """Predicted and true classes, int64 [n] each, and their number n; n is also "none of them"."""
    check_lengths(predictions, references)
    answers = only_answers(metric, references)
    ids = {label: index for index, label in enumerate(labels or sorted(set(answers)))}
    for row, answer in enumerate(answers):
        if answer not in ids:
            raise UserError(
                f"The answer {answer!r} of row {row} (counted from 0) is none of the labels "
                f"{', '.join(labels)}; evaluate on a split that has labels."
            )
    predicted = np.array([ids.get(p.strip(), len(ids)) for p in predictions], np.int64)
    return predicted, np.array([ids[answer] for answer in answers], np.int64), len(ids)


def _binary_f1(
    metric: str,
    predictions: Sequence[str],
    references: Sequence[Reference],
    labels: Sequence[str],
) -> float:
    check_labels(metric, labels)
    predicted, true, _ = _class_ids(metric, predictions, references, labels)
    hits = int(np.sum((predicted == 1) & (true == 1)))
    misses = int(np.sum(predicted != true))  # false positives and false negatives
    return 2 * hits / (2 * hits + misses) if hits else 0.0


def _dot(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _numbers(
    metric: str, predictions: Sequence[str], references: Sequence[Reference]
) -> tuple[np.ndarray, np.ndarray]:
    check_lengths(predictions, references)
    true = []
    for row, answer in enumerate(only_answers(metric, references)):
        number = _number(answer)
        if number is None:
            raise UserError(
                f"The answer {answer!r} of row {row} (counted from 0) is no number, which the "
                f"metric {metric} needs; choose another metric or correct it."
            )
        true.append(number)
    numbers = [_number(prediction) for prediction in predictions]
    return np.array([-1.0 if x is None else x for x in numbers]), np.array(true)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _ranks(numbers: np.ndarray) -> np.ndarray:
    _, position, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[position]


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    if (a == a[0]).all() or (b == b[0]).all():
        return 0.0
    a, b = _direction(a), _direction(b)
    return float(np.clip(np.dot(a, b), -1, 1))


def _direction(numbers: np.ndarray) -> np.ndarray:
    """Deviations from the mean as a vector of length 1; the numbers are not all the same."""
    # Stretched to [0, 1] first, so that neither huge nor hardly different numbers lose precision:
    # to below 1 by a power of two, which rounds nothing.
    stretched = np.ldexp(numbers, -np.frexp(np.max(np.abs(numbers)))[1])
    stretched -= np.min(stretched)
    stretched /= np.max(stretched)
    deviation = stretched - np.mean(stretched)
    return deviation / np.linalg.norm(deviation)
