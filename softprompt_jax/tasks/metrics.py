"""Metrics by name: functions of predicted texts, of what they are judged by, and of the labels."""

import difflib

from softprompt_jax.errors import UserError
from softprompt_jax.tasks.answer_metrics import (
    record_em,
    record_f1,
    squad_em,
    squad_f1,
    wsc_accuracy,
)
from softprompt_jax.tasks.label_metrics import (
    accuracy,
    check_labels,
    f1,
    macro_f1,
    matthews,
    multirc_em,
    multirc_f1a,
    pearson,
    spearman,
)
from softprompt_jax.tasks.references import Metric, Reference

__all__ = ["METRICS", "Metric", "Reference", "check_labels", "get_metric"]

METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "exact_match": accuracy,  # the same rule, under its name for free text
    "macro_f1": macro_f1,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
    "squad_em": squad_em,
    "squad_f1": squad_f1,
    "record_em": record_em,
    "record_f1": record_f1,
    "multirc_f1a": multirc_f1a,
    "multirc_em": multirc_em,
    "wsc_accuracy": wsc_accuracy,
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
