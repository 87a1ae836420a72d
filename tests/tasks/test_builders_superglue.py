"""TFDS's own builders, run offline on small files in the raw layout of each data set."""

import importlib.util

import pytest
from tasks import raw_layouts as raw

from softprompt_jax.tasks import superglue  # noqa: F401  (registers its tasks)
from softprompt_jax.tasks.metrics import Reference
from softprompt_jax.tasks.task import get_task
from softprompt_jax.tasks.tfds_source import MODULES

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(module) is None for module in MODULES),
    reason="needs tensorflow-datasets: pip install 'softprompt-jax[tfds]'",
)

BOOLQ = f"boolq passage: {raw.RAIN} question: "
MULTIRC = "multirc question: {} answer: {} paragraph: Sent 1: Bo ran. Sent 2: Di sat. "
RECORD = (
    "record query: {} entities: Oslo, Penguins, pigeons "
    "passage: Penguins met pigeons in Oslo. Oslo is cold. Birds like Oslo"
)
WSC = (
    "WSC",
    [("wsc: Bo told Di that *he* ran .", "Bo"), ("wsc: The dog saw that *it* ran .", "The dog")],
    [
        ("wsc: The cat saw that *she* ran .", Reference(("The cat",), holds=False)),
        ("wsc: Di saw that *she* ran .", Reference(("Di",), holds=True)),
    ],
)

# Task -> (its archive, all training rows, all validation rows); the order is TFDS's own.
EXPECTED = {
    "boolq": (
        "BoolQ",
        [(BOOLQ + "did it rain in füssen", "True"), (BOOLQ + "was it warm", "False")],
        [("boolq passage: It is. question: is this so", Reference(("True",)))],
    ),
    "cb": (
        "CB",
        [
            ("cb hypothesis: it is premise: He knew it.", "entailment"),
            ("cb hypothesis: it is premise: It's false.", "contradiction"),
        ],
        [
            ("cb hypothesis: it is premise: Is it?", Reference(("neutral",))),
            ("cb hypothesis: it is premise: It is.", Reference(("entailment",))),
            ("cb hypothesis: it is premise: It isn't.", Reference(("contradiction",))),
        ],
    ),
    "copa": (
        "COPA",
        [
            (
                "copa choice1: It broke. choice2: It flew. premise: The glass fell. "
                "question: effect",
                "choice1",
            ),
            (
                "copa choice1: I sat. choice2: It rained. premise: The lawn is wet. "
                "question: cause",
                "choice2",
            ),
        ],
        [("copa choice1: A. choice2: B. premise: P. question: cause", Reference(("choice2",)))],
    ),
    "multirc": (
        "MultiRC",
        [
            (MULTIRC.format("Who ran?", "Bo"), "True"),
            (MULTIRC.format("Who ran?", "Di"), "False"),
            (MULTIRC.format("Who sat?", "Di"), "True"),
        ],
        [
            (MULTIRC.format("Who ran?", "Bo"), Reference(("True",), (0, 0))),
            (MULTIRC.format("Who ran?", "Jo"), Reference(("False",), (0, 0))),
            (MULTIRC.format("Why?", "?"), Reference(("False",), (0, 1))),
        ],
    ),
    "record": (
        "ReCoRD",
        [
            (RECORD.format("@placeholder met in Oslo"), "Penguins"),
            (RECORD.format("@placeholder met in Oslo"), "pigeons"),
            (RECORD.format("They met in @placeholder"), "Oslo"),
        ],
        [(RECORD.format("@placeholder flew"), Reference(("Penguins", "pigeons"), (0, 0)))],
    ),
    "rte": (
        "RTE",
        [
            ("rte hypothesis: Bo moved. premise: Bo ran.", "entailment"),
            ("rte hypothesis: Di ran. premise: Bo ran.", "not_entailment"),
        ],
        [("rte hypothesis: H. premise: P.", Reference(("not_entailment",)))],
    ),
    "wic": (
        "WiC",
        [
            ("wic sentence1: trash on the bed sentence2: a bed of straw word: bed", "True"),
            ("wic sentence1: the bed of a river sentence2: a bed of straw word: bed", "False"),
        ],
        [
            (
                "wic sentence1: come to my place sentence2: a place in art word: place",
                Reference(("False",)),
            )
        ],
    ),
    "wsc": WSC,
    "wsc.fixed": WSC,
}


@pytest.fixture
def downloads(monkeypatch):
    """From what the download manager of TFDS shall give, to TFDS that gives it."""
    import tensorflow_datasets as tfds

    def give(made):
        for method in ("download", "download_and_extract"):
            monkeypatch.setattr(tfds.download.DownloadManager, method, lambda self, urls: made)

    return give


def by_text(rows):
    return sorted(rows, key=lambda row: (row[0], str(row[1])))


@pytest.mark.parametrize("name", EXPECTED)
def test_builder(downloads, tmp_path, name):
    archive, pairs, questions = EXPECTED[name]
    downloads(raw.write_super_glue(tmp_path / "raw", archive))
    task = get_task(f"super_glue/{name}", data_dir=str(tmp_path / "data"))
    train, validation = task.split("train"), task.split("validation")
    rows = {
        "train": raw.SUPER_GLUE[archive]["train"],
        "validation": raw.SUPER_GLUE[archive]["val"],
    }
    if name not in ("multirc", "record"):  # which have several examples a line
        assert (len(train), len(validation)) == (len(rows["train"]), len(rows["validation"]))
    assert len(list(train)) == len(train)
    trained = [pair for example in train for pair in task.text_pairs(example)]
    assert by_text(trained) == by_text(pairs)
    asked = [row for example in validation for row in task.evaluation_rows(example)]
    assert by_text(asked) == by_text(questions)
    assert [row for example in validation for row in task.evaluation_rows(example)] == asked

    references = [reference for _, reference in asked]
    right = [each.answers[0] if each.holds else "nobody" for each in references]
    scores = task.evaluate(right, references)
    # MultiRC's F1 needs a right answer, and CB's all three classes: the rows have them.
    assert {metric: scores[metric] for metric in task.metrics} == dict.fromkeys(task.metrics, 1.0)
    assert {path.name for path in tmp_path.iterdir()} == {"raw", "data"}


def test_pronoun_resolution(downloads, tmp_path):
    (tmp_path / "raw").mkdir()
    downloads(raw.write_pronoun_resolution(tmp_path / "raw"))
    task = get_task("definite_pronoun_resolution", data_dir=str(tmp_path / "data"))
    trained = [pair for example in task.split("train") for pair in task.text_pairs(example)]
    assert by_text(trained) == [
        ("wsc: Bob asked Tom if *he* can help.", "Tom"),
        ("wsc: The bees liked flowers, and people kept *them*.", "The bees"),
    ]
    (example,) = task.split("validation")
    assert task.evaluation_rows(example) == [
        ("wsc: The dog chased the cat, *which* ran.", Reference(("the cat",)))
    ]


@pytest.mark.parametrize("name", ["boolq", "cb", "copa", "multirc", "rte", "wic"])
def test_labels_are_those_of_the_data_set(name):
    import tensorflow_datasets as tfds

    config = tfds.text.super_glue.SuperGlue.builder_configs[name]
    assert get_task(f"super_glue/{name}").labels == tuple(config.label_classes)


def test_versions_are_those_of_the_paper(tmp_path):
    """The pinned versions are ones that this TFDS can make, or no split could be read."""
    import tensorflow_datasets as tfds

    for name in ("super_glue/boolq:1.0.2", "definite_pronoun_resolution:1.1.0"):
        builder = tfds.builder(name, data_dir=tmp_path)
        assert str(builder.version) == name.split(":")[1]
