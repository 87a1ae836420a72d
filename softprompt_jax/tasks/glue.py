"""The tasks of GLUE as T5 casts them, from tensorflow-datasets.

Each input is its fields, by name and in alphabetical order: "sentence1: … sentence2: …". T5 puts
the task's name in front, which here is the prefix that `task_prefix` adds. The test splits have no
public labels and are left out.

References:
    GLUE (Wang et al. 2018); T5 (Raffel et al. 2020), section 2.4 and appendix D; the metrics are
    GLUE's own, as T5 takes them.
"""

from collections.abc import Callable, Mapping

import numpy as np

from softprompt_jax.tasks.task import Example
from softprompt_jax.tasks.tfds_source import register_tfds_task

UNLABELLED = "<unk>"  # T5's target for the label -1, which marks examples without one
NLI = ("entailment", "neutral", "contradiction")
ENTAILMENT = ("entailment", "not_entailment")
SIMILARITIES = tuple(f"{step / 5:.1f}" for step in range(26))
"""STS-B's targets: "0.0" to "5.0" in steps of 0.2."""

Pairs = Callable[[Example], list[tuple[str, str]]]


def classification_pairs(fields: tuple[str, ...], labels: tuple[str, ...]) -> Pairs:
    """The cast of a task whose label is the index of a class.

    Args:
        fields: names of the text fields, in the order of the input.
        labels: the words for the classes.
    """

    def pairs(example: Example) -> list[tuple[str, str]]:
        text = " ".join(f"{field}: {example[field]}" for field in fields)
        target = UNLABELLED if example["label"] == -1 else labels[example["label"]]
        return [(text, target)]

    return pairs


def similarity_pairs(example: Example) -> list[tuple[str, str]]:
    """The cast of STS-B, whose score from 0 to 5 is rounded to the nearest 0.2.

    References:
        T5 (Raffel et al. 2020), section 2.4. It counts 21 classes, from 1; the data have 26.
    """
    text = f"sentence1: {example['sentence1']} sentence2: {example['sentence2']}"
    # In float32 with halves to the even side, as T5 rounds: 0.7 * 5 is 3.5 in float32, but less
    # than that when the data set's float32 is multiplied as a Python float.
    score = np.round(np.float32(example["label"]) * np.float32(5)) / np.float32(5)
    return [(text, f"{score:.1f}")]


def _register(
    config: str,
    fields: tuple[str, ...],
    labels: tuple[str, ...],
    metrics: tuple[str, ...],
    *,
    splits: Mapping[str, str] | None = None,
    prefix: str | None = None,
) -> None:
    register_tfds_task(
        f"glue/{config}",
        pairs=classification_pairs(fields, labels),
        splits=splits or {"train": "train", "validation": "validation"},
        labels=labels,
        metrics=metrics,
        prefix=prefix or config,
    )


_PAIR = ("sentence1", "sentence2")
_NLI_FIELDS = ("hypothesis", "premise")

_register("cola", ("sentence",), ("unacceptable", "acceptable"), ("matthews",))
_register("sst2", ("sentence",), ("negative", "positive"), ("accuracy",))
_register("mrpc", _PAIR, ("not_equivalent", "equivalent"), ("f1", "accuracy"))
_register("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), ("f1", "accuracy"))
_register("qnli", ("question", "sentence"), ENTAILMENT, ("accuracy",))
_register("rte", _PAIR, ENTAILMENT, ("accuracy",))
_register(
    "mnli",
    _NLI_FIELDS,
    NLI,
    ("accuracy",),
    splits={"train": "train", "validation": "validation_matched"},
)
for _name in ("mnli_matched", "mnli_mismatched"):  # to evaluate on; the prefix stays T5's "mnli"
    _register(
        _name,
        _NLI_FIELDS,
        NLI,
        ("accuracy",),
        splits={"validation": "validation"},
        prefix="mnli",
    )
register_tfds_task(
    "glue/stsb",
    pairs=similarity_pairs,
    labels=SIMILARITIES,
    metrics=("pearson", "spearman"),
    prefix="stsb",
)
