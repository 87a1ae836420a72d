"""A split's tokens and references, fresh or kept by an earlier run."""

import dataclasses

import pytest

from softprompt_jax.config import TaskOptions
from softprompt_jax.data.cache import TokenCache
from softprompt_jax.data.splits import read_split
from softprompt_jax.errors import UserError
from softprompt_jax.tasks import Reference, Task

ROWS = [{"input": "a fun ride", "answers": ["good", "fine"]}]
OPTIONS = TaskOptions(max_target_length=4)


def pairs(row):
    return [(row["input"], row["answers"][0])]


def questions(row):
    return [(row["input"], Reference(tuple(row["answers"])))]


TASK = Task(
    name="said",
    load=lambda _: ROWS,
    pairs=pairs,
    questions=questions,
    evaluation="generate",
    metrics=("exact_match",),
    fingerprint=lambda split: split,
)


@pytest.mark.parametrize(
    "other",
    [
        {"evaluation": "likelihood", "metrics": ("log_likelihood",), "questions": None},
        {"questions": None},
    ],
)
def test_kept_references_are_those_of_the_evaluation(tmp_path, t5_like, encoder_decoder, other):
    cache = TokenCache(tmp_path)

    def read(task):
        split = read_split(OPTIONS, task, "validation", t5_like, encoder_decoder, cache)
        return [reference.answers for reference in split.references]

    assert read(dataclasses.replace(TASK, **other)) == [("good",)]
    for _ in range(2):  # made anew, then kept
        assert read(TASK) == [("good", "fine")]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": ("good", "fine")}, "The label 'good' has"),
        ({"load": lambda _: [{"input": "", "answers": ["good"]}]}, "Input 0 "),
        ({"questions": lambda _: []}, "The split has no examples"),
    ],
)
def test_a_mistake_names_task_and_split(byte_bpe, causal, changes, message):
    task = dataclasses.replace(TASK, **changes)
    options = dataclasses.replace(OPTIONS, max_target_length=1 if "labels" in changes else 4)
    with pytest.raises(UserError, match=f"^Task said, validation: {message}"):
        read_split(options, task, "validation", byte_bpe, causal)


def test_a_split_that_the_task_lacks_is_told_once(t5_like, encoder_decoder):
    with pytest.raises(UserError, match=r"^Task said has no 'other' split"):
        read_split(OPTIONS, TASK, "other", t5_like, encoder_decoder)
