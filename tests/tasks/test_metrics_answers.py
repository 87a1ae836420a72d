"""SQuAD, ReCoRD and WSC against their published rules, written out here once more by plain loops.

The loops follow the evaluation script of SQuAD v1.1, which SuperGLUE's for ReCoRD repeats, and the
rule of t5 0.9.4 for WSC. test_metrics tells how the package t5 itself was compared.
"""

import random

import pytest

from softprompt_jax.tasks.answer_matching import DETERMINERS, names_referent, squad_normalize
from softprompt_jax.tasks.metrics import METRICS, Reference

CLOSE = 1e-9
WORDS = (
    *("the", "The", "a", "an", "AN", "her", "his", "my", "your", "each", "whose", "some", "few"),
    *("Bob", "Bob's", "bob", "hat", "fuzzy", "bunny", "x-y", "a-b", "U.S.", "(an)", "the_end"),
    *("Élan", "naïve", "日本", "ß", "İ", "«a»", "l\u2019a", "a\u0300", "a\u00a0the", "42", "1,000"),
    *("", "", "!", "it's", "\t", "the\nend"),
)


def normal_words(text):
    """The words that are left of a text, one character at a time."""
    kept = ""
    for character in text.lower():
        if character not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~":
            kept += character
    pieces, run = [], ""
    for character in kept + " ":
        if character.isalnum() or character == "_":
            run += character
            continue
        # A run of letters between two borders of words: an article is replaced by a space.
        pieces.append(" " if run in ("a", "an", "the") else run)
        pieces.append(character)
        run = ""
    return "".join(pieces).split()


def squad_scores(prediction, answers):
    best_em = best_f1 = 0.0
    predicted = normal_words(prediction)
    for answer in answers:
        true = normal_words(answer)
        if predicted == true:
            best_em = 1.0
        left, same = list(true), 0
        for word in predicted:
            if word in left:
                left.remove(word)
                same += 1
        if same:
            precision, recall = same / len(predicted), same / len(true)
            best_f1 = max(best_f1, 2 * precision * recall / (precision + recall))
    return best_em, best_f1


def random_texts(seed, sets=250):
    generator = random.Random(seed)

    def text(most):
        return " ".join(generator.choice(WORDS) for _ in range(generator.randint(0, most)))

    for _ in range(sets):
        n = generator.randint(1, 25)
        right = generator.random()
        answers = [tuple(text(5) for _ in range(generator.randint(1, 4))) for _ in range(n)]
        groups = [
            generator.choice([None, (generator.randint(0, 1), generator.randint(0, 4))])
            for _ in range(n)
        ]
        predictions = [
            generator.choice(options).upper() if generator.random() < right else text(6)
            for options in answers
        ]
        yield predictions, answers, groups


def test_squad_and_record_by_the_published_rules():
    for predictions, answers, groups in random_texts(0):
        references = [Reference(a, g) for a, g in zip(answers, groups, strict=True)]
        scores = [squad_scores(p, a) for p, a in zip(predictions, answers, strict=True)]
        seen, counted = [], []
        for i, group in enumerate(groups):
            if group is None or group not in seen:
                seen.append(group)
                counted.append(scores[i])
        for k, kind in enumerate(("em", "f1")):
            assert METRICS[f"squad_{kind}"](predictions, references, ()) == pytest.approx(
                sum(score[k] for score in scores) / len(scores), abs=CLOSE
            )
            assert METRICS[f"record_{kind}"](predictions, references, ()) == pytest.approx(
                sum(score[k] for score in counted) / len(counted), abs=CLOSE
            )


@pytest.mark.parametrize(
    ("prediction", "answer", "em", "f1"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1, 1),
        ("a-b", "ab", 1, 1),  # punctuation goes first, so this "a" is no article
        ("U.S. Army", "US army", 1, 1),
        ("«the»", "«»", 0, 0),  # only ASCII punctuation goes; the article leaves a space: « »
        ("in Paris Paris", "Paris", 0, 0.5),
        ("Paris Paris", "Paris Paris France", 0, 0.8),
        ("", "Paris", 0, 0),
        ("the", "a", 1, 0),  # nothing is left of either: equal, but no word is shared
    ],
)
def test_squad_worked_examples(prediction, answer, em, f1):
    references = [Reference((answer,))]
    assert METRICS["squad_em"]([prediction], references, ()) == em
    assert METRICS["squad_f1"]([prediction], references, ()) == pytest.approx(f1)
    one_of_two = [Reference(("something else", answer))]
    assert METRICS["squad_f1"]([prediction], one_of_two, ()) == pytest.approx(f1)


def test_squad_normal_form():
    assert squad_normalize("  An  apple, THE\tpear; a.n. ") == "apple pear"
    assert squad_normalize("theatre banana ana") == "theatre banana ana"


def test_record_counts_the_first_row_of_a_question():
    references = [Reference(("Rome", "Roma"), (0, 1)), Reference(("Rome", "Roma"), (0, 1))]
    references.append(Reference(("Oslo",), (0, 2)))
    assert METRICS["record_em"](["Roma", "Paris", "Bergen"], references, ()) == 1 / 2
    assert METRICS["record_em"](["Paris", "Roma", "Bergen"], references, ()) == 0
    assert METRICS["record_f1"](["old Roma", "x", "Oslo"], references, ()) == pytest.approx(
        (2 / 3 + 1) / 2
    )
    assert METRICS["squad_em"](["Roma", "Paris", "Bergen"], references, ()) == 1 / 3


def wsc_verdict(prediction, referent):
    """1: names the referent, 0: does not, -1: says nothing."""
    dropped = "a an few her his each every many much my our some that the their these this those"
    dropped = [*dropped.split(), "which", "whose", "your"]
    kept = []
    for text in (prediction, referent):
        words = []
        for word in text.strip().lower().split(" "):
            if word not in dropped:
                words.append(word)
        kept.append(" ".join(words))
    if kept[0].strip(" ") == "":
        return -1
    if kept[0].count("'") > 0 and kept[1].count("'") == 0:
        return 0
    if kept[1].count("'") > 0 and kept[0].count("'") == 0:
        return 0
    first, second = kept[0].split(" "), kept[1].split(" ")
    if all(word in second for word in first) or all(word in first for word in second):
        return 1
    return 0


def test_wsc_by_the_rule_of_t5():
    seen = set()
    for predictions, answers, groups in random_texts(1):
        holds = [group is None for group in groups]
        referents = [options[0] for options in answers]
        verdicts = [wsc_verdict(p, r) for p, r in zip(predictions, referents, strict=True)]
        seen |= set(zip(verdicts, holds, strict=True))
        right = sum(verdict == int(hold) for verdict, hold in zip(verdicts, holds, strict=True))
        references = [Reference((r,), holds=h) for r, h in zip(referents, holds, strict=True)]
        value = METRICS["wsc_accuracy"](predictions, references, ())
        assert value == pytest.approx(right / len(verdicts), abs=CLOSE)
    assert len(seen) == 6


@pytest.mark.parametrize(
    ("prediction", "referent", "verdict"),
    [
        ("bunny", "the fuzzy bunny", True),
        ("The Fuzzy Bunny", "bunny", True),
        ("that bunny", "my bunny", True),
        ("fuzzy hat", "fuzzy bunny", False),
        ("Bob", "Bob's hat", False),  # a possessive on one side only
        ("Bob's", "Bob's hat", True),
        ("bun", "bunny", False),  # words, not letters
        ("", "bunny", None),
        (" the ", "bunny", None),
    ],
)
def test_wsc_worked_examples(prediction, referent, verdict):
    assert names_referent(prediction, referent) is verdict
    for holds in (True, False):
        score = METRICS["wsc_accuracy"]([prediction], [Reference((referent,), holds=holds)], ())
        assert score == (verdict is holds)


def test_determiners():
    assert len(DETERMINERS) == 21
    assert all(names_referent(word, "bunny") is None for word in DETERMINERS)
