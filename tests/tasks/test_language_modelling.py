import random
import time

import pytest

from softprompt_jax.tasks import Reference, get_task
from softprompt_jax.tasks.language_modelling import text_pairs_of

DOCUMENTS = [
    ("one two", [("one", "two")]),
    ("aa bb cc dd", [("aa bb", "cc dd")]),
    ("aaa bbb ccc", [("aaa", "bbb ccc")]),  # both cuts are as good: the earlier
    ("a bbbbbbbbbbbbbbb c", [("a", "bbbbbbbbbbbbbbb c")]),
    ("short aVeryLongWordAtTheEndOfTheText", [("short", "aVeryLongWordAtTheEndOfTheText")]),
    ("Para one.\n\nPara two.", [("Para one.", "Para two.")]),  # the cut belongs to neither half
    ("Line one.\nLine two.\tx\nLine 3 is here.", [("Line one.\nLine two.", "x\nLine 3 is here.")]),
    ("  outer  space  ", [("outer", "space")]),
    ("naïve\u00a0café", [("naïve", "café")]),
    ("word", []),
    ("   ", []),
    ("", []),
]


@pytest.mark.parametrize(("text", "rows"), DOCUMENTS)
def test_text_pairs_of(text, rows):
    assert text_pairs_of(text) == rows
    task = get_task("c4")
    assert task.text_pairs({"text": text.encode(), "url": "x"}) == rows
    assert task.evaluation_rows({"text": text}) == [
        (first, Reference((second,))) for first, second in rows
    ]


def test_no_cut_is_nearer_the_middle():
    random_state = random.Random(0)
    for _ in range(200):
        words = ["x" * random_state.randint(1, 12) for _ in range(random_state.randint(2, 30))]
        text = " ".join(words)
        ((first, second),) = text_pairs_of(text)
        assert f"{first} {second}" == text
        differences = [
            abs(len(" ".join(words[:i])) - len(" ".join(words[i:]))) for i in range(1, len(words))
        ]
        assert abs(len(first) - len(second)) == min(differences)


def test_long_documents_are_cheap():
    text = "word " * 400_000
    start = time.perf_counter()
    ((first, second),) = text_pairs_of(text)
    assert time.perf_counter() - start < 5
    assert len(first) == len(second)


def test_c4():
    task = get_task("c4", data_dir="somewhere")
    assert (task.evaluation, task.metrics) == ("likelihood", ("log_likelihood",))
    assert (task.labels, task.prefix, task.splits) == ((), "", ("train", "validation"))
