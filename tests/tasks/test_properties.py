"""Metrics of any predictions: against scikit-learn, scipy, exact fractions and plain loops."""

import math
import string
from collections import Counter
from fractions import Fraction

import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import repeatable
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from softprompt_jax.tasks.answer_matching import squad_normalize, squad_word_f1
from softprompt_jax.tasks.metrics import METRICS, Reference

CLOSE = 1e-9
LABELS = ("no", "yes", "perhaps", "the hat")
SPACES = st.sampled_from(["", " ", "\n", "\t "])


@st.composite
def labelled(draw, least=2, most=4):
    """Predictions, answers and labels; a prediction may be no label, and have white space."""
    labels = LABELS[: draw(st.integers(least, most))]
    rows = draw(
        st.lists(
            st.tuples(st.sampled_from([*labels, "else", "", "YES"]), st.sampled_from(labels)),
            min_size=1,
            max_size=15,
        )
    )
    predictions = [draw(SPACES) + prediction + draw(SPACES) for prediction, _ in rows]
    return predictions, [answer for _, answer in rows], labels


def score(name, predictions, answers, labels=()):
    return METRICS[name](predictions, [Reference((answer,)) for answer in answers], labels)


@repeatable(100)
@given(labelled())
def test_label_metrics_as_scikit_learn(drawn):
    predictions, answers, labels = drawn
    said = [prediction.strip() for prediction in predictions]
    for name in ("accuracy", "exact_match"):
        assert score(name, *drawn) == pytest.approx(accuracy_score(answers, said), abs=CLOSE)
    for given_labels, classes in ((labels, labels), ((), sorted(set(answers)))):
        expected = f1_score(answers, said, labels=classes, average="macro", zero_division=0)
        value = score("macro_f1", predictions, answers, given_labels)
        assert value == pytest.approx(expected, abs=CLOSE)
    outside = [word if word in labels else "outside" for word in said]
    # scikit-learn warns of a single class, where the coefficient is 0 by its convention and ours.
    several = len({*answers, *outside}) > 1
    expected = matthews_corrcoef(answers, outside) if several else 0
    assert score("matthews", *drawn) == pytest.approx(expected, abs=CLOSE)


@repeatable(100)
@given(labelled(2, 2))
def test_binary_f1_as_scikit_learn(drawn):
    predictions, answers, labels = drawn
    # T5's rule: what is no label is the wrong one.
    said = [
        word if word in labels else labels[answer == labels[0]]
        for word, answer in zip(map(str.strip, predictions), answers, strict=True)
    ]
    expected = f1_score(answers, said, pos_label=labels[1], zero_division=0)
    for name in ("f1", "multirc_f1a"):
        assert score(name, *drawn) == pytest.approx(expected, abs=CLOSE)


@repeatable(100)
@given(labelled(), st.randoms(use_true_random=False), st.data())
def test_label_metrics_know_no_order_of_rows_and_no_names(drawn, random, data):
    predictions, answers, labels = drawn
    rows = list(zip(predictions, answers, strict=True))
    random.shuffle(rows)
    new_names = dict(zip(labels, data.draw(st.permutations(labels)), strict=True))
    for name in ("accuracy", "macro_f1", "matthews"):
        value = score(name, *drawn)
        assert (-1 if name == "matthews" else 0) <= value <= 1
        assert score(name, *zip(*rows, strict=True), labels) == pytest.approx(value, abs=CLOSE)
        renamed = score(
            name,
            [new_names.get(prediction.strip(), prediction) for prediction in predictions],
            [new_names[answer] for answer in answers],
            labels,
        )
        assert renamed == pytest.approx(value, abs=CLOSE)
    assert score("accuracy", answers, answers, labels) == 1
    assert score("macro_f1", answers, answers) == 1
    assert score("matthews", answers, answers, labels) == (len(set(answers)) > 1)


@st.composite
def grouped(draw):
    """Rows with several answers and groups, some of them rows by themselves."""
    texts = st.sampled_from(["the hat", "hat", "A hat!", "Bob", "bob's hat", "", "hat hat Bob"])
    references = draw(
        st.lists(
            st.builds(
                Reference,
                st.lists(texts, min_size=1, max_size=3).map(tuple),
                st.none() | st.integers(0, 3),
                st.booleans(),
            ),
            min_size=1,
            max_size=10,
        )
    )
    predictions = draw(st.lists(texts, min_size=len(references), max_size=len(references)))
    return predictions, references


@repeatable(120)
@given(grouped())
def test_groups_by_plain_loops(drawn):
    predictions, references = drawn
    groups = {}
    for row, (prediction, reference) in enumerate(zip(predictions, references, strict=True)):
        key = f"row {row}" if reference.group is None else f"group {reference.group}"
        groups.setdefault(key, []).append((prediction, reference))
    whole = [all(p in r.answers for p, r in rows) for rows in groups.values()]
    assert METRICS["multirc_em"](*drawn, ()) == pytest.approx(sum(whole) / len(whole), abs=CLOSE)
    firsts = list(zip(*(rows[0] for rows in groups.values()), strict=True))
    for name in ("em", "f1"):
        expected = METRICS[f"squad_{name}"](*firsts, ())
        assert METRICS[f"record_{name}"](*drawn, ()) == pytest.approx(expected, abs=CLOSE)


@repeatable(120)
@given(grouped(), st.randoms(use_true_random=False))
def test_answer_metrics_know_no_order(drawn, random):
    predictions, references = drawn
    rows = list(zip(predictions, references, strict=True))
    random.shuffle(rows)
    shuffled = list(zip(*rows, strict=True))
    for name in ("accuracy", "squad_em", "squad_f1", "multirc_em", "wsc_accuracy"):
        value = METRICS[name](*drawn, ())
        assert 0 <= value <= 1
        assert METRICS[name](*shuffled, ()) == pytest.approx(value, abs=CLOSE)
    # The answers of a row have no order either, and one more never lowers the score.
    turned = [Reference(r.answers[::-1], r.group, r.holds) for r in references]
    more = [Reference((*r.answers, "Bob"), r.group, r.holds) for r in references]
    for name in ("accuracy", "squad_em", "squad_f1", "multirc_em", "record_em", "record_f1"):
        value = METRICS[name](*drawn, ())
        assert METRICS[name](predictions, turned, ()) == pytest.approx(value, abs=CLOSE)
        assert METRICS[name](predictions, more, ()) >= value - CLOSE
    # An exact match has an F1 of 1, but for texts without words.
    wordless = sum(not squad_normalize(prediction) for prediction in predictions) / len(rows)
    exact = METRICS["squad_em"](*drawn, ())
    assert METRICS["squad_f1"](*drawn, ()) >= exact - wordless - CLOSE


ANSWERS = st.lists(
    st.sampled_from(["the", "An", "a", "Hat.", "a-b", "t.he", "(the)", "naïve", "日本", "\u00a0"])
    | st.text(max_size=3),
    max_size=6,
).map(" ".join)


@repeatable(200)
@given(ANSWERS)
def test_squad_normal_form(text):
    normal = squad_normalize(text)
    words = normal.split(" ") if normal else []
    assert "" not in words
    assert not {"a", "an", "the"} & set(words)
    assert not set(string.punctuation) & set(normal)
    assert squad_normalize(normal) == normal
    assert squad_normalize(f"  {text}\t") == normal
    assert squad_normalize(f"the {text} an") == normal


@repeatable(200)
@given(ANSWERS, ANSWERS)
def test_word_f1_is_precision_and_recall(prediction, answer):
    predicted, true = prediction.split(), answer.split()
    rest = list(true)
    for word in predicted:
        if word in rest:
            rest.remove(word)
    shared = len(true) - len(rest)
    value = squad_word_f1(prediction, answer)
    if not shared:
        assert value == 0
        return
    precision, recall = Fraction(shared, len(predicted)), Fraction(shared, len(true))
    assert value == pytest.approx(float(2 * precision * recall / (precision + recall)), abs=CLOSE)
    assert value == squad_word_f1(answer, prediction)
    assert (value == 1) == (Counter(predicted) == Counter(true))


FEW_NUMBERS = st.integers(-4, 8).map(lambda n: n / 4)
ANY_NUMBER = st.floats(allow_nan=False, allow_infinity=False)


def exact_correlation(a, b):
    """Pearson's correlation in fractions, with one root at the end."""
    a, b = [[Fraction(x) - sum(map(Fraction, each)) / len(each) for x in each] for each in (a, b)]
    products = sum(x * y for x, y in zip(a, b, strict=True))
    square = products**2 / (sum(x * x for x in a) * sum(y * y for y in b))
    return math.sqrt(square) if products > 0 else -math.sqrt(square)


@repeatable(150)
@given(
    st.lists(st.tuples(ANY_NUMBER, FEW_NUMBERS), min_size=2, max_size=8)
    | st.floats(1, 2).flatmap(
        lambda base: st.lists(
            st.tuples(st.integers(0, 4).map(lambda bits: base + bits * 2.0**-52), FEW_NUMBERS),
            min_size=2,
            max_size=8,
        )
    )
    | st.lists(st.tuples(FEW_NUMBERS, FEW_NUMBERS), min_size=2, max_size=12)
)
def test_correlations(rows):
    a, b = zip(*rows, strict=True)
    predictions, answers = list(map(repr, a)), list(map(repr, b))
    found = {name: score(name, predictions, answers) for name in ("pearson", "spearman")}
    if len(set(a)) == 1 or len(set(b)) == 1:
        assert found == {"pearson": 0, "spearman": 0}
        return
    assert found["pearson"] == pytest.approx(exact_correlation(a, b), abs=1e-7)
    assert found["spearman"] == pytest.approx(scipy.stats.spearmanr(a, b)[0], abs=CLOSE)
    for name, value in found.items():
        assert -1 <= value <= 1
        assert score(name, predictions[::-1], answers[::-1]) == pytest.approx(value, abs=CLOSE)
        assert score(name, answers, predictions) == pytest.approx(value, abs=CLOSE)
        assert score(name, answers, answers) == pytest.approx(1)


@repeatable(80)
@given(st.lists(st.tuples(st.text(max_size=4), FEW_NUMBERS), min_size=1, max_size=8))
def test_what_is_no_number_counts_as_minus_one(rows):
    def number(text):
        try:
            return float(text)
        except ValueError:
            return -1.0

    predictions, answers = [p for p, _ in rows], [repr(x) for _, x in rows]
    numbers = [number(p) for p in predictions]
    assume(all(map(math.isfinite, numbers)))
    for name in ("pearson", "spearman"):
        assert score(name, predictions, answers) == score(name, list(map(repr, numbers)), answers)
