import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from softprompt_jax.errors import UserError
from softprompt_jax.tasks import METRICS, get_metric


def test_as_scikit_learn():
    generator = np.random.default_rng(0)
    for _ in range(50):
        labels = [f"label {i}" for i in range(generator.integers(2, 6))]
        n = int(generator.integers(1, 40))
        targets = generator.choice(labels, n).tolist()
        # "nonsense" is in no label set, as text that a model made up.
        predictions = generator.choice([*labels, "nonsense"], n).tolist()
        classes = sorted(set(targets))
        assert get_metric("accuracy")(predictions, targets) == pytest.approx(
            accuracy_score(targets, predictions)
        )
        assert get_metric("macro_f1")(predictions, targets) == pytest.approx(
            f1_score(targets, predictions, labels=classes, average="macro", zero_division=0)
        )


def test_exact_match_strips_but_keeps_case():
    exact_match = get_metric("exact_match")
    assert (
        exact_match([" Paris\n", "paris", "Par is", "x"], ["Paris", "Paris", "Paris", "x "]) == 0.5
    )
    assert get_metric("accuracy")([" Paris"], ["Paris"]) == 0


def test_worked_example():
    predictions, targets = ["a", "a", "b", "?"], ["a", "b", "b", "b"]
    # a: 1 hit, 2 predicted, 1 true: 2/3. b: 1 hit, 1 predicted, 3 true: 2/4.
    assert get_metric("macro_f1")(predictions, targets) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_mistakes():
    for metric in METRICS.values():
        with pytest.raises(ValueError, match="1 predictions for 2"):
            metric(["a"], ["a", "b"])
        with pytest.raises(ValueError, match="0 predictions"):
            metric([], [])
    with pytest.raises(UserError, match="did you mean macro_f1"):
        get_metric("macrof1")
