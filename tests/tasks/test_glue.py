"""GLUE's casts against texts written by hand, which T5's own code makes as well.

All rows of `ROWS` and `SCORES` were put through `t5.data.preprocessors.glue` and `.stsb` of the t5
package, version 0.9.4 (with tensorflow-cpu 2.21, and the label words and field names of
tensorflow-datasets 4.9.10's GLUE builder), as `t5.data.glue_utils.get_glue_text_preprocessor`
chooses them: the same inputs and targets, character for character.
"""

import numpy as np
import pytest

from softprompt_jax.tasks import Reference, get_task, glue, task_names

SENTENCE_PAIRS = [
    ("Amrozi accused his brother.", 'Referring to him as only " the witness ".', 1),
    ("PCCW's stock rose 2.5%.", "Shares fell.", 0),
    ("  outer and  double spaces ", "stay\tas they\nare", 1),
    ("", "an empty sentence", 0),
    ("Füße — “quoted” ☃", "sentence1: is a word like any other", 1),
    ("no label", "no label", -1),
]


def pair_rows(name, first, second, labels):
    """The same texts for each task with two fields; only names and label words differ."""
    words = (*labels, "<unk>")  # index -1 is the last
    return [
        (
            {first: a, second: b, "label": label, "idx": i},
            f"{name} {first}: {a} {second}: {b}",
            words[label],
        )
        for i, (a, b, label) in enumerate(SENTENCE_PAIRS)
    ]


def row(label, idx=0, **fields):
    return {**fields, "label": label, "idx": idx}


ROWS = {
    "sst2": [
        (
            row(0, sentence="hide new secretions from the parental units "),
            "sst2 sentence: hide new secretions from the parental units ",
            "negative",
        ),
        (
            row(1, sentence="a smile on your face"),
            "sst2 sentence: a smile on your face",
            "positive",
        ),
        (row(1, sentence="it 's  charming"), "sst2 sentence: it 's  charming", "positive"),
        (row(0, sentence="naïve <br> … no"), "sst2 sentence: naïve <br> … no", "negative"),
        (row(-1, sentence="uneasy mishmash"), "sst2 sentence: uneasy mishmash", "<unk>"),
    ],
    "cola": [
        (
            row(1, sentence="The sailors rode the breeze clear of the rocks."),
            "cola sentence: The sailors rode the breeze clear of the rocks.",
            "acceptable",
        ),
        (
            row(0, sentence="They drank the pub."),
            "cola sentence: They drank the pub.",
            "unacceptable",
        ),
        (
            row(1, sentence='"I" \'m, he said; (so).'),
            'cola sentence: "I" \'m, he said; (so).',
            "acceptable",
        ),
        (row(0, sentence="*Him run."), "cola sentence: *Him run.", "unacceptable"),
        (row(-1, sentence="Bill whistled."), "cola sentence: Bill whistled.", "<unk>"),
    ],
    "mrpc": pair_rows("mrpc", "sentence1", "sentence2", ("not_equivalent", "equivalent")),
    "rte": pair_rows("rte", "sentence1", "sentence2", ("entailment", "not_entailment")),
    "qqp": pair_rows("qqp", "question1", "question2", ("not_duplicate", "duplicate")),
    "qnli": pair_rows("qnli", "question", "sentence", ("entailment", "not_entailment")),
    "mnli": [
        # The data set has the premise first; the input goes by the alphabet.
        (
            row(
                1,
                premise="Conceptually cream skimming has two dimensions.",
                hypothesis="Product and geography are what make it work.",
            ),
            "mnli hypothesis: Product and geography are what make it work. "
            "premise: Conceptually cream skimming has two dimensions.",
            "neutral",
        ),
        (
            row(0, premise="How do you know?", hypothesis="This is theirs."),
            "mnli hypothesis: This is theirs. premise: How do you know?",
            "entailment",
        ),
        (
            row(2, premise="yeah i know", hypothesis="I don't know."),
            "mnli hypothesis: I don't know. premise: yeah i know",
            "contradiction",
        ),
        (row(0, premise="n/a", hypothesis=""), "mnli hypothesis:  premise: n/a", "entailment"),
        (row(-1, premise="p", hypothesis="h"), "mnli hypothesis: h premise: p", "<unk>"),
    ],
}
ROWS["mnli_matched"] = ROWS["mnli_mismatched"] = ROWS["mnli"]

# STS-B's score and its target. In float32 0.1 * 5 and 0.7 * 5 are exact halves, which go to the
# even side; the nearest 0.2 to 0.7 as a decimal number could be either.
SCORES = [
    (5.0, "5.0"), (0.0, "0.0"), (3.8, "3.8"), (2.5, "2.4"), (0.5, "0.4"), (1.5, "1.6"),
    (4.5, "4.4"), (3.5, "3.6"), (0.7, "0.8"), (0.3, "0.4"), (0.1, "0.0"), (0.9, "0.8"),
    (1.1, "1.2"), (2.333, "2.4"), (1.714, "1.8"), (3.909, "4.0"), (4.909, "5.0"), (0.05, "0.0"),
    (2.3, "2.4"), (4.7, "4.8"),
]  # fmt: skip

ARGUMENTS = {
    "cola": (("matthews",), ("unacceptable", "acceptable")),
    "sst2": (("accuracy",), ("negative", "positive")),
    "mrpc": (("f1", "accuracy"), ("not_equivalent", "equivalent")),
    "qqp": (("f1", "accuracy"), ("not_duplicate", "duplicate")),
    "stsb": (("pearson", "spearman"), tuple(f"{n // 10}.{n % 10}" for n in range(0, 51, 2))),
    "mnli": (("accuracy",), ("entailment", "neutral", "contradiction")),
    "mnli_matched": (("accuracy",), ("entailment", "neutral", "contradiction")),
    "mnli_mismatched": (("accuracy",), ("entailment", "neutral", "contradiction")),
    "qnli": (("accuracy",), ("entailment", "not_entailment")),
    "rte": (("accuracy",), ("entailment", "not_entailment")),
}


@pytest.mark.parametrize("name", ROWS)
def test_texts(name):
    task = get_task(f"glue/{name}")
    assert len(ROWS[name]) >= 5
    for example, text, target in ROWS[name]:
        assert task.text_pairs(example) == [(text, target)]
        without = text.split(" ", 1)[1]  # the paper's own way of dropping the task's name
        assert task.text_pairs(example, task_prefix=False) == [(without, target)]
        assert task.evaluation_rows(example) == [(text, Reference((target,)))]


@pytest.mark.parametrize(("score", "target"), SCORES)
def test_stsb(score, target):
    task = get_task("glue/stsb")
    example = row(np.float32(score), sentence1="A plane is taking off.", sentence2="A  man.")
    text = "sentence1: A plane is taking off. sentence2: A  man."
    assert task.text_pairs(example) == [(f"stsb {text}", target)]
    assert task.text_pairs({**example, "label": float(np.float32(score))}, task_prefix=False) == [
        (text, target)
    ]
    assert target in task.labels


@pytest.mark.parametrize("name", ARGUMENTS)
def test_tasks(name):
    task = get_task(f"glue/{name}")
    metrics, labels = ARGUMENTS[name]
    assert (task.metrics, task.labels, task.evaluation) == (metrics, labels, "generate")
    alone = name in ("mnli_matched", "mnli_mismatched")
    assert task.splits == (("validation",) if alone else ("train", "validation"))
    assert set(ARGUMENTS) == {n[5:] for n in task_names() if n.startswith("glue/")}


def test_positive_class():
    """F1 is of the paraphrases, which T5's rule takes as class 1."""
    references = [Reference((label,)) for label in ("equivalent", "equivalent", "not_equivalent")]
    predictions = ["equivalent", "not_equivalent", "not_equivalent"]
    metrics = get_task("glue/mrpc").evaluate(predictions, references)
    assert metrics["f1"] == pytest.approx(2 / 3)  # of not_equivalent it would be 2/3 too
    metrics = get_task("glue/mrpc").evaluate(["equivalent"] * 3, references)
    assert metrics["f1"] == pytest.approx(0.8)
    assert glue.SIMILARITIES[1] == "0.2"
