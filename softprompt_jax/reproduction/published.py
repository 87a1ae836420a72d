"""Numbers that were published, where an experiment compares more than a few.

References:
    Lester, Al-Rfou, Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning";
    Vu et al. 2021, "SPoT" (arXiv 2110.07904), table 4, by the same team: figure 1 prints no
    numbers.
"""

import dataclasses
from collections.abc import Mapping

from softprompt_jax.reproduction.results import Published

SIZES = ("Small", "Base", "Large", "XL", "XXL")

_SPOT = "SPoT, table 4 (figure 1 prints no numbers)"
_SPOT_MIXTURE = "SPoT, table 4 (its mixture is GLUE before the task, not SuperGLUE)"

PROMPT_TUNING, MODEL_TUNING, MULTITASK = (
    "prompt tuning",
    "model tuning",
    "multi-task model tuning",
)

# By method, and by size its mean and standard deviation; None: not told apart from another's.
_FIGURE_1: dict[str, tuple[str, tuple[tuple[float, float | None], ...]]] = {
    PROMPT_TUNING: (_SPOT, ((59.8, 0.8), (63.1, 1.1), (74.5, 2.2), (79.2, None), (88.8, 0.2))),
    MODEL_TUNING: (_SPOT, ((62.8, 0.8), (73.7, 0.6), (81.3, 0.6), (83.1, 0.2), (89.9, 0.2))),
    MULTITASK: (_SPOT_MIXTURE, ((64.6, 0.2), (79.2, 0.3), (84.5, 0.1), (88.0, None), (90.1, 0.2))),
}


def figure_1(size: str, method: str) -> Published | None:
    """The SuperGLUE score of a size and method."""
    if method not in _FIGURE_1 or size not in SIZES:
        return None
    source, values = _FIGURE_1[method]
    mean, deviation = values[SIZES.index(size)]
    return Published(mean, source, deviation)


# Mean over the prompts, best prompt, majority vote.
TABLE_3: dict[tuple[str, str], tuple[float, float, float]] = {
    ("super_glue/boolq", "accuracy"): (91.1, 91.3, 91.7),
    ("super_glue/cb", "accuracy"): (99.3, 100.0, 100.0),
    ("super_glue/cb", "macro_f1"): (99.0, 100.0, 100.0),
    ("super_glue/copa", "accuracy"): (98.8, 100.0, 100.0),
    ("super_glue/multirc", "multirc_em"): (65.7, 66.3, 67.1),
    ("super_glue/multirc", "multirc_f1a"): (88.7, 89.0, 89.4),
    ("super_glue/record", "record_em"): (92.7, 92.9, 93.2),
    ("super_glue/record", "record_f1"): (93.4, 93.5, 93.9),
    ("super_glue/rte", "accuracy"): (92.6, 93.5, 93.5),
    ("super_glue/wic", "accuracy"): (76.2, 76.6, 77.4),
    ("super_glue/wsc.fixed", "wsc_accuracy"): (95.8, 96.2, 96.2),
}
TABLE_3_AVERAGE = (90.5, 91.0, 91.3)


def _seconds(clock: str) -> int:
    """Of "[hours:]minutes:seconds"."""
    total = 0
    for part in clock.split(":"):
        total = 60 * total + int(part)
    return total


# Seconds to within 1 % of the mean on BoolQ, by size and prompt length, and their deviation.
TABLE_5: dict[tuple[str, int], tuple[int, int]] = {
    at: (_seconds(mean), _seconds(deviation))
    for at, mean, deviation in (
        (("Large", 1), "3:17", "2:10"),
        (("XL", 1), "3:37", "2:11"),
        (("XXL", 1), "21:23", "1:54"),
        (("XL", 20), "49:08", "18:53"),
        (("XXL", 20), "53:03", "16:25"),
        (("Small", 50), "9:05", "5:07"),
        (("Base", 50), "55:01", "27:48"),
        (("Large", 50), "1:14:16", "13:12"),
        (("XL", 50), "2:30:10", "25:40"),
        (("XXL", 50), "3:13:13", "23:08"),
        (("Small", 100), "16:25", "1:15"),
        (("Base", 100), "29:57", "0:18"),
        (("Large", 100), "1:23:36", "10:21"),
        (("XL", 100), "3:35:00", "54:42"),
        (("XXL", 100), "3:51:15", "45:53"),
    )
}

# F1 on SQuAD and out of its domain: model tuning, prompt tuning, each with its deviation.
TABLE_1: dict[str, tuple[tuple[float, float], tuple[float, float]]] = {
    "squad": ((94.9, 0.2), (94.8, 0.1)),
    "mrqa/textbook_qa": ((54.3, 3.7), (66.8, 2.9)),
    "mrqa/bio_asq": ((77.9, 0.4), (79.1, 0.3)),
    "mrqa/race": ((59.8, 0.6), (60.7, 0.5)),
    "mrqa/relation_extraction": ((88.4, 0.1), (88.8, 0.2)),
    "mrqa/duo_rc": ((68.9, 0.7), (67.7, 1.1)),
    "mrqa/drop": ((68.9, 1.7), (67.1, 1.9)),
}

# From one task to the other: accuracy and F1, each of model tuning and of prompt tuning.
TABLE_2: dict[tuple[str, str], dict[str, tuple[tuple[float, float], tuple[float, float]]]] = {
    ("glue/qqp", "glue/mrpc"): {
        "accuracy": ((73.1, 0.9), (76.3, 0.1)),
        "f1": ((81.2, 2.1), (84.3, 0.3)),
    },
    ("glue/mrpc", "glue/qqp"): {
        "accuracy": ((74.9, 1.3), (75.4, 0.8)),
        "f1": ((70.9, 1.2), (69.7, 0.3)),
    },
}

# Examples by split; the paper has test splits too, whose labels are not public. For WSC the
# training examples whose noun is the right one, of 554.
TABLE_7: dict[str, dict[str, int]] = {
    "super_glue/boolq": {"train": 9_427, "validation": 3_270},
    "super_glue/cb": {"train": 250, "validation": 56},
    "super_glue/copa": {"train": 400, "validation": 100},
    "super_glue/multirc": {"train": 27_243, "validation": 4_848},
    "super_glue/record": {"train": 100_730, "validation": 10_000},
    "super_glue/rte": {"train": 2_490, "validation": 277},
    "super_glue/wic": {"train": 5_428, "validation": 638},
    "super_glue/wsc.fixed": {"train": 259, "validation": 104},
    "glue/mrpc": {"train": 3_668, "validation": 408},
    "glue/qqp": {"train": 363_849, "validation": 40_430},
    "squad": {"train": 87_599, "validation": 10_570},
    "mrqa/textbook_qa": {"validation": 1_504},
    "mrqa/race": {"validation": 1_503},
    "mrqa/bio_asq": {"validation": 1_501},
    "mrqa/relation_extraction": {"validation": 674},
    "mrqa/duo_rc": {"validation": 2_948},
    "mrqa/drop": {"validation": 1_503},
}


@dataclasses.dataclass(frozen=True)
class LabelTable:
    """One of the tables 8 to 16.

    Attributes:
        task: whose labels it has.
        shares: percent of a split's examples, by split and label.
        finding: what it shows.
    """

    task: str
    shares: Mapping[tuple[str, str], float]
    finding: str


def _shares(
    labels: tuple[str, ...], train: tuple[float, ...], validation: tuple[float, ...]
) -> dict[tuple[str, str], float]:
    return {
        (split, label): share
        for split, shares in (("train", train), ("validation", validation))
        for label, share in zip(labels, shares, strict=True)
    }


_BOOLEAN = ("False", "True")

# By number.
TABLES_8_TO_16: dict[int, LabelTable] = {
    8: LabelTable(
        "super_glue/boolq",
        _shares(_BOOLEAN, (37.7, 62.3), (37.8, 62.2)),
        "62 % of the answers are True.",
    ),
    9: LabelTable(
        "super_glue/cb",
        _shares(("contradiction", "entailment", "neutral"), (47.6, 46.0, 6.4), (50.0, 41.1, 8.9)),
        "Few are neutral, 6 to 9 %.",
    ),
    10: LabelTable(
        "super_glue/copa",
        _shares(("choice1", "choice2"), (48.8, 51.2), (55.0, 45.0)),
        "Both choices are about equally often right.",
    ),
    11: LabelTable(
        "super_glue/multirc",
        _shares(_BOOLEAN, (55.9, 44.1), (57.2, 42.8)),
        "56 to 57 % of the answers are wrong ones.",
    ),
    12: LabelTable(
        "super_glue/wic",
        _shares(_BOOLEAN, (50.0, 50.0), (50.0, 50.0)),
        "Both labels are equally frequent.",
    ),
    13: LabelTable(
        "super_glue/wsc.fixed",
        _shares(_BOOLEAN, (0.0, 100.0), (63.5, 36.5)),
        "Trained on right nouns only; 63.5 % of those to validate with are wrong.",
    ),
    14: LabelTable(
        "super_glue/rte",
        _shares(("entailment", "not_entailment"), (51.2, 49.8), (52.7, 47.3)),
        "Both labels are about equally frequent.",
    ),
    15: LabelTable(
        "glue/mrpc",
        _shares(("equivalent", "not_equivalent"), (67.4, 32.6), (68.4, 31.6)),
        "Two thirds are equivalent.",
    ),
    16: LabelTable(
        "glue/qqp",
        _shares(("duplicate", "not_duplicate"), (36.9, 63.1), (36.8, 63.2)),
        "37 % are duplicates.",
    ),
}
