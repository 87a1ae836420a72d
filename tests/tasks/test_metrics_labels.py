import math
import random
import warnings

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from softprompt_jax.errors import UserError
from softprompt_jax.tasks.metrics import METRICS, Reference

CLOSE = 1e-9


def references_to(answers, groups=None):
    groups = groups or [None] * len(answers)
    return [Reference((answer,), group) for answer, group in zip(answers, groups, strict=True)]


def random_labels(seed, n_labels=None, sets=200):
    """Random (predictions, answers, labels): from all wrong to nearly all right, with text that is
    no label, and with labels that do not occur."""
    generator = random.Random(seed)
    for _ in range(sets):
        labels = [f"label {i} ñ" for i in range(n_labels or generator.randint(2, 6))]
        n = generator.randint(1, 40)
        right = generator.random()
        answers = [generator.choice(labels) for _ in range(n)]
        predictions = [
            answer
            if generator.random() < right
            else generator.choice([*labels, "nonsense", "", "LABEL 0 Ñ", "label"])
            for answer in answers
        ]
        yield predictions, answers, labels


def test_accuracy_and_macro_f1_as_scikit_learn():
    for predictions, answers, labels in random_labels(0):
        references = references_to(answers)
        assert METRICS["accuracy"](predictions, references, labels) == pytest.approx(
            accuracy_score(answers, predictions), abs=CLOSE
        )
        for classes, given in ((labels, labels), (sorted(set(answers)), ())):
            expected = f1_score(
                answers, predictions, labels=classes, average="macro", zero_division=0
            )
            value = METRICS["macro_f1"](predictions, references, given)
            assert value == pytest.approx(expected, abs=CLOSE)


def test_f1_as_scikit_learn():
    for predictions, answers, labels in random_labels(1, n_labels=2):
        # T5's rule: what is no label counts as the wrong one of the two.
        chosen = [
            prediction if prediction in labels else labels[1 - labels.index(answer)]
            for prediction, answer in zip(predictions, answers, strict=True)
        ]
        expected = f1_score(answers, chosen, pos_label=labels[1], zero_division=0)
        for name in ("f1", "multirc_f1a"):
            value = METRICS[name](predictions, references_to(answers), labels)
            assert value == pytest.approx(expected, abs=CLOSE)


def test_matthews_as_scikit_learn():
    for predictions, answers, labels in random_labels(2):
        # One class for all that is no label.
        chosen = [p if p in labels else "none of them" for p in predictions]
        value = METRICS["matthews"](predictions, references_to(answers), labels)
        if len(set(chosen)) == 1 or len(set(answers)) == 1:
            assert value == 0
        else:
            assert value == pytest.approx(matthews_corrcoef(answers, chosen), abs=CLOSE)


def test_matthews_of_many_rows():
    # The products of the counts, some 1e22, are past 64-bit integers.
    generator = np.random.default_rng(0)
    true = generator.integers(0, 2, 200_000)
    predicted = np.where(generator.random(200_000) < 0.8, true, 1 - true)
    words = ("unacceptable", "acceptable")
    value = METRICS["matthews"](
        [words[i] for i in predicted], references_to([words[i] for i in true]), words
    )
    # With two classes it is Pearson's correlation of the indicators.
    assert value == pytest.approx(np.corrcoef(predicted, true)[0, 1], abs=CLOSE)


def test_worked_label_examples():
    answers = references_to(["a", "b", "b", "b"])
    predictions = ["a", "a", "b", "?"]
    # a: 1 hit, 2 predicted, 1 true: 2/3. b: 1 hit, 1 predicted, 3 true: 2/4.
    assert METRICS["macro_f1"](predictions, answers, ("a", "b")) == pytest.approx(
        (2 / 3 + 1 / 2) / 2
    )
    # The class c of the task does not occur: it counts as 0, as T5 counts it.
    assert METRICS["macro_f1"](predictions, answers, ("a", "b", "c")) == pytest.approx(
        (2 / 3 + 1 / 2 + 0) / 3
    )
    # b is positive: 1 hit, 2 misses.
    assert METRICS["f1"](predictions, answers, ("a", "b")) == pytest.approx(2 / 4)
    # a is positive: 1 hit, 1 false positive, and none of the labels for b is another.
    assert METRICS["f1"](predictions, answers, ("b", "a")) == pytest.approx(2 / 4)


def test_without_any_positive():
    references = references_to(["no", "no"])
    assert METRICS["f1"](["no", "no"], references, ("no", "yes")) == 0
    assert METRICS["matthews"](["no", "no"], references, ("no", "yes")) == 0


def test_several_answers():
    references = [Reference(("Paris", "paris ")), Reference(("Rome",))]
    for name in ("accuracy", "exact_match"):
        assert METRICS[name](["paris", "rome"], references, ()) == 0.5
        assert METRICS[name]([" Paris\n", "Ro me"], references, ()) == 0.5
    for name in ("macro_f1", "matthews", "f1", "multirc_f1a", "pearson", "spearman"):
        with pytest.raises(UserError, match=rf"Row 0 .* 2 accepted answers.*{name}"):
            METRICS[name](["a", "b"], references, ("Paris", "Rome"))


def test_answers_outside_the_labels():
    for name in ("macro_f1", "matthews", "f1"):
        with pytest.raises(UserError, match=r"'<unk>' of row 1 .* none of the labels no, yes"):
            METRICS[name](["no", "no"], references_to(["no", "<unk>"]), ("no", "yes"))


def test_multirc_as_by_hand():
    generator = random.Random(3)
    for _ in range(200):
        n = generator.randint(1, 30)
        right = generator.random()
        # Rows of a question need not stand together.
        groups = [(generator.randint(0, 2), generator.randint(0, 3)) for _ in range(n)]
        answers = [generator.choice(("False", "True")) for _ in range(n)]
        predictions = [
            answer if generator.random() < right else generator.choice(("True", "False", "", "?"))
            for answer in answers
        ]
        questions = {}
        for i in range(n):
            questions.setdefault(groups[i], []).append(i)
        solved = 0
        for rows in questions.values():
            wrong = 0
            for i in rows:
                if predictions[i] != answers[i]:
                    wrong += 1
            if wrong == 0:
                solved += 1
        references = references_to(answers, groups)
        value = METRICS["multirc_em"](predictions, references, ("False", "True"))
        assert value == pytest.approx(solved / len(questions), abs=CLOSE)


def test_rows_without_a_group_stand_alone():
    labels = ("False", "True")
    # The group 1 is not row number 1.
    references = [Reference(("True",), 1), Reference(("True",)), Reference(("True",))]
    assert METRICS["multirc_em"](["?", "True", "True"], references, labels) == 2 / 3
    assert METRICS["record_em"](["?", "True", "True"], references, ()) == 2 / 3


def number(text):
    """T5's reading of a prediction, but for nan and infinity."""
    try:
        value = float(text)
    except ValueError:
        return -1.0
    return value if math.isfinite(value) else -1.0


def test_correlations_as_scipy():
    generator = random.Random(4)
    odd = ["", "five", "4,2", "nan", "inf", "-inf", "1e999", "5.", " 2.5 ", "1e0", "٣", "-7"]
    compared = 0
    for _ in range(300):
        n = generator.randint(1, 40)
        right = generator.random()
        answers = [f"{generator.randint(0, 25) / 5:.1f}" for _ in range(n)]  # many ties
        predictions = [
            answer if generator.random() < right else generator.choice([*odd, "0.0", "3.4"])
            for answer in answers
        ]
        a, b = [number(p) for p in predictions], [float(x) for x in answers]
        for name, function in (
            ("pearson", scipy.stats.pearsonr),
            ("spearman", scipy.stats.spearmanr),
        ):
            value = METRICS[name](predictions, references_to(answers), ())
            if len(set(a)) == 1 or len(set(b)) == 1:
                assert value == 0
            else:
                compared += 1
                assert value == pytest.approx(function(a, b)[0], abs=CLOSE)
    assert compared > 500


@pytest.mark.parametrize("name", ["pearson", "spearman"])
def test_correlations_at_the_edges(name):
    metric = METRICS[name]
    answers = references_to(["0.2", "3", "5"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A prompt that always says the same: T5 gives nan, which could not be compared.
        assert metric(["0.1", "0.1", "0.1"], answers, ()) == 0
        assert metric(["x", "", "nan"], answers, ()) == 0
        assert metric(["1", "2", "3"], references_to(["0.1"] * 3), ()) == 0
        assert metric(["1"], references_to(["2"]), ()) == 0
        # Neither very large nor hardly different numbers go wrong.
        assert metric(["-1.7e308", "0", "1.7e308"], references_to(["1", "2", "3"]), ()) == (
            pytest.approx(1)
        )
        assert metric(["1e-320", "2e-320", "3e-320"], answers, ()) > 0.9
        assert metric(["1", "1", "1.0000000000000002"], answers, ()) == pytest.approx(
            scipy.stats.pearsonr([0, 0, 1], [0.2, 3, 5])[0] if name == "pearson" else 3**0.5 / 2
        )
    with pytest.raises(UserError, match=f"'positive' of row 0 .* no number.*{name}"):
        metric(["1"], references_to(["positive"]), ())
