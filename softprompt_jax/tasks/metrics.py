"""Metrics by name: pure functions of predicted and true strings."""

import difflib
from collections.abc import Callable, Sequence

import numpy as np

from softprompt_jax.errors import UserError

Metric = Callable[[Sequence[str], Sequence[str]], float]


def accuracy(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Share of predictions that equal their target, in [0, 1]."""
    _check(predictions, targets)
    return float(np.mean([p == t for p, t in zip(predictions, targets, strict=True)]))


def exact_match(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Share of predictions that equal their target but for outer white space, in [0, 1]."""
    return accuracy([p.strip() for p in predictions], [t.strip() for t in targets])


def macro_f1(predictions: Sequence[str], targets: Sequence[str]) -> float:
    """Mean over classes of the F1 score of each class against the rest, in [0, 1].

    The classes are those that occur in `targets`; any other prediction is a miss of its true class
    and makes no class of its own, as scikit-learn's `f1_score(labels=classes, average="macro")`.

    References:
        SuperGLUE (Wang et al. 2019), section 3: CB is scored by unweighted mean F1 over classes.
    """
    _check(predictions, targets)
    scores = []
    for label in sorted(set(targets)):
        predicted = np.array([p == label for p in predictions])
        true = np.array([t == label for t in targets])
        # F1 = 2 TP / (predicted + true); `true` has at least one row, so it is never 0 / 0.
        scores.append(2 * np.sum(predicted & true) / (np.sum(predicted) + np.sum(true)))
    return float(np.mean(scores))


def _check(predictions: Sequence[str], targets: Sequence[str]) -> None:
    if len(predictions) != len(targets) or not targets:
        raise ValueError(f"{len(predictions)} predictions for {len(targets)} targets")


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "exact_match": exact_match,
    "macro_f1": macro_f1,
}


def get_metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        UserError: there is none.
    """
    if name not in METRICS:
        close = difflib.get_close_matches(name, METRICS, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"There is no metric {name!r}: {hint}Known metrics: {', '.join(METRICS)}.")
    return METRICS[name]
