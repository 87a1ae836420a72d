"""Metrics of generated answers: SQuAD, ReCoRD, WSC."""

from collections.abc import Hashable, Sequence

from softprompt_jax.tasks.answer_matching import names_referent, squad_normalize, squad_word_f1
from softprompt_jax.tasks.references import Reference, check_lengths, group_key, mean


def squad_em(
    predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]
) -> float:
    """Share of predictions that equal one of their answers in SQuAD's normal form, in [0, 1].

    References:
        SQuAD (Rajpurkar et al. 2016), section 6.1, and the evaluation script of version 1.1.
    """
    check_lengths(predictions, references)
    return mean(
        any(squad_normalize(prediction) == squad_normalize(answer) for answer in reference.answers)
        for prediction, reference in zip(predictions, references, strict=True)
    )


def squad_f1(
    predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]
) -> float:
    """Mean over rows of the best word F1 with one of the answers, in [0, 1].

    References:
        As for `squad_em`.
    """
    check_lengths(predictions, references)
    return mean(
        max(
            squad_word_f1(squad_normalize(prediction), squad_normalize(answer))
            for answer in reference.answers
        )
        for prediction, reference in zip(predictions, references, strict=True)
    )


def record_em(
    predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]
) -> float:
    """`squad_em` over the first row of each group.

    References:
        ReCoRD (Zhang et al. 2018), section 5: SQuAD's scores over all answers. T5 makes rows that
        repeat a question and scores the first prediction for each.
    """
    return squad_em(*_first_of_groups(predictions, references), labels)


def record_f1(
    predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]
) -> float:
    """`squad_f1` over the first row of each group.

    References:
        As for `record_em`.
    """
    return squad_f1(*_first_of_groups(predictions, references), labels)


def wsc_accuracy(
    predictions: Sequence[str], references: Sequence[Reference], labels: Sequence[str]
) -> float:
    """Share of rows in which the prediction names the referent just where it should, in [0, 1].

    An empty prediction is wrong, also where the reference does not hold.

    References:
        `softprompt_jax.tasks.answer_matching.names_referent`.
    """
    check_lengths(predictions, references)

    def is_right(prediction: str, reference: Reference) -> bool:
        named = [names_referent(prediction, answer) for answer in reference.answers]
        return None not in named and any(named) == reference.holds

    return mean(is_right(p, r) for p, r in zip(predictions, references, strict=True))


def _first_of_groups(
    predictions: Sequence[str], references: Sequence[Reference]
) -> tuple[list[str], list[Reference]]:
    check_lengths(predictions, references)
    first: dict[tuple[bool, Hashable], tuple[str, Reference]] = {}
    for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        first.setdefault(group_key(row, reference), (prediction, reference))
    return [p for p, _ in first.values()], [r for _, r in first.values()]
