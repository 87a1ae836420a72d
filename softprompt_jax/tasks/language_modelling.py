"""Any text as a task of language modelling: the first half of a document is to be continued.

Evaluation measures how likely the second halves are.
"""

import re

from softprompt_jax.tasks.task import LIKELIHOOD_METRICS, Example
from softprompt_jax.tasks.tfds_source import register_tfds_task


def text_pairs_of(text: str) -> list[tuple[str, str]]:
    """The (first half, second half) of a document, none where it has fewer than two words.

    The cut is the white space that leaves the two halves the most equal in length, the earlier of
    two that do so; it belongs to neither half. T5's own prefix language modelling cuts at a random
    token of each document in each epoch; here the rows stay the same, so that a likelihood can be
    compared with another run's.

    References:
        T5 (Raffel et al. 2020), section 3.3.1; Lester et al. 2021, section 2.2, LM adaptation.
    """
    text = text.strip()
    gaps = re.finditer(r"\s+", text)
    # The halves are text[:start] and text[end:], so their lengths differ by start - (size - end).
    gap = min(gaps, key=lambda gap: abs(gap.start() + gap.end() - len(text)), default=None)
    return [] if gap is None else [(text[: gap.start()], text[gap.end() :])]


def _pairs(example: Example) -> list[tuple[str, str]]:
    return text_pairs_of(example["text"])


# TFDS makes C4 from Common Crawl on a cluster; most users read a copy that is already prepared.
register_tfds_task(
    "c4",
    builder="c4/en",
    pairs=_pairs,
    evaluation="likelihood",
    metrics=LIKELIHOOD_METRICS,
    prefix="",
)
