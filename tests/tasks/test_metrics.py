"""What holds for every metric. The rules of each are in test_metrics_labels and -_answers.

All metrics were also compared, once, with the package t5 0.9.4 itself: its modules
`t5.evaluation.metrics` and `t5.data.postprocessors`, with scikit-learn 1.9.1 and scipy 1.17.1 below
them and stand-ins only for what those two modules import and these metrics do not use (that is,
editdistance, sacrebleu, rouge_score). On some 3,000 random sets of 1 to 40 rows for each metric
(labels with predictions outside them, repeated groups, answers of articles, punctuation, accents
and other scripts, empty texts, unreadable numbers) the numbers agreed to 1e-15 but for two things,
both by choice: a correlation that is not defined is nan there and 0 here, and in WSC a prediction
of nothing but determiners and repeated spaces says nothing here and there says "no".
"""

import random

import pytest

from softprompt_jax.errors import UserError
from softprompt_jax.tasks.metrics import METRICS, Reference, check_labels, get_metric

LABELS = {
    "f1": ("no", "yes"),
    "multirc_f1a": ("no", "yes"),
    "macro_f1": ("no", "yes", "maybe"),
    "matthews": ("no", "yes"),
}


@pytest.mark.parametrize("name", METRICS)
def test_bounds_and_perfect_predictions(name):
    generator = random.Random(1)
    labels = LABELS.get(name, ())
    words = labels or ("0", "1.5", "3", "4.25")
    for _ in range(30):
        n = generator.randint(len(words), 30)
        answers = [*words, *generator.choices(words, k=n - len(words))]
        references = [Reference((answer,), group=i // 3) for i, answer in enumerate(answers)]
        predictions = generator.choices([*words, "?", ""], k=n)
        value = METRICS[name](predictions, references, labels)
        assert type(value) is float
        lowest = -1 if name in ("pearson", "spearman", "matthews") else 0
        assert lowest <= value <= 1
        assert METRICS[name](answers, references, labels) == pytest.approx(1, abs=1e-12)
        padded = [f" {prediction}\n" for prediction in predictions]
        assert METRICS[name](padded, references, labels) == value
        if "record" not in name:  # there the order decides which row of a group counts
            order = generator.sample(range(n), n)
            shuffled = METRICS[name](
                [predictions[i] for i in order], [references[i] for i in order], labels
            )
            assert shuffled == pytest.approx(value, abs=1e-12)


@pytest.mark.parametrize("name", METRICS)
def test_number_of_rows(name):
    metric, labels = METRICS[name], LABELS.get(name, ())
    with pytest.raises(ValueError, match="1 predictions for 2"):
        metric(["1"], [Reference(("1",)), Reference(("2",))], labels)
    with pytest.raises(ValueError, match="0 predictions"):
        metric([], [], labels)


def test_get_metric():
    assert get_metric("squad_em") is METRICS["squad_em"]
    with pytest.raises(UserError, match="did you mean macro_f1"):
        get_metric("macrof1")
    with pytest.raises(UserError, match="Known metrics: accuracy, exact_match"):
        get_metric("perplexity")


def test_check_labels():
    for name in METRICS:
        check_labels(name, ("a", "b"))
    for name in ("f1", "multirc_f1a"):
        for labels in ((), ("a",), ("a", "b", "c")):
            with pytest.raises(UserError, match=f"{name} needs exactly two labels.*{len(labels)}"):
                check_labels(name, labels)
            with pytest.raises(UserError, match="exactly two labels"):
                METRICS[name](["a"], [Reference(("a",))], labels)
    check_labels("matthews", ("a", "b", "c"))
    check_labels("squad_f1", ())


def test_a_reference_needs_answers():
    with pytest.raises(ValueError, match="one or more strings"):
        Reference(())
    with pytest.raises(ValueError, match="one or more strings"):
        Reference("yes")  # pyright: ignore[reportArgumentType]
