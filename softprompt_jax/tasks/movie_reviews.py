"""movie_reviews: is a sentence of a film review positive or negative? Comes with the package.

Sentences of Rotten Tomatoes reviews (Pang & Lee) with mean human ratings from -4 to 4 (Hutto &
Gilbert 2014), those rated at least 1 away from neutral. `movie_reviews/README.md` tells the origin.
"""

import functools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from softprompt_jax.errors import UserError
from softprompt_jax.tasks.task import Example, Task, register_task

LABELS = ("negative", "positive")
TEST_ROWS, VALIDATION_ROWS = 1000, 500
SPLIT_SEED = 2021  # fixed: the splits are part of the task, whatever the seed of a run
SUFFIX = "\nsentiment:"
DATA_FILE = Path(__file__).parent / "movie_reviews" / "movie_reviews.tsv"


@functools.cache
def _splits() -> dict[str, tuple[Example, ...]]:
    try:
        text = DATA_FILE.read_text(encoding="utf-8")
    except OSError:
        raise UserError(
            f"The data of movie_reviews, {DATA_FILE}, is missing; install softprompt-jax again."
        ) from None
    examples = []
    for line in text.splitlines()[1:]:
        row_id, score, review = line.split("\t")
        label = LABELS[float(score) > 0]
        examples.append({"id": int(row_id), "score": float(score), "text": review, "label": label})
    # RandomState, unlike Generator, promises the same stream in every version of numpy.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(examples))
    shuffled = [examples[i] for i in order]
    middle = TEST_ROWS + VALIDATION_ROWS
    return {
        "test": tuple(shuffled[:TEST_ROWS]),
        "validation": tuple(shuffled[TEST_ROWS:middle]),
        "train": tuple(shuffled[middle:]),
    }


def _load(split: str) -> Sequence[Example]:
    return _splits()[split]


def _pairs(example: Example) -> list[tuple[str, str]]:
    return [(f"review: {example['text']}{SUFFIX}", example["label"])]


def _movie_reviews() -> Task:
    return Task(
        name="movie_reviews",
        load=_load,
        pairs=_pairs,
        labels=LABELS,
        metrics=("accuracy",),
        input_suffix=SUFFIX,
    )


register_task("movie_reviews", _movie_reviews)
