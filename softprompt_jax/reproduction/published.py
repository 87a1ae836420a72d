"""Numbers that were published, where an experiment compares more than a few.

References:
    Lester, Al-Rfou, Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning";
    Vu et al. 2021, "SPoT" (arXiv 2110.07904), table 4, by the same team: figure 1 prints no
    numbers.
"""

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

# Seconds to within 1 % of the mean on BoolQ, by size and prompt length.
TABLE_5: dict[tuple[str, int], int] = {
    ("Large", 1): 3 * 60 + 17,
    ("XL", 1): 3 * 60 + 37,
    ("XXL", 1): 21 * 60 + 23,
    ("XL", 20): 49 * 60 + 8,
    ("XXL", 20): 53 * 60 + 3,
    ("Small", 50): 9 * 60 + 5,
    ("Base", 50): 55 * 60 + 1,
    ("Large", 50): 3600 + 14 * 60 + 16,
    ("XL", 50): 2 * 3600 + 30 * 60 + 10,
    ("XXL", 50): 3 * 3600 + 13 * 60 + 13,
    ("Small", 100): 16 * 60 + 25,
    ("Base", 100): 29 * 60 + 57,
    ("Large", 100): 3600 + 23 * 60 + 36,
    ("XL", 100): 3 * 3600 + 35 * 60,
    ("XXL", 100): 3 * 3600 + 51 * 60 + 15,
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
