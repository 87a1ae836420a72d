"""movie_reviews: is a sentence of a film review positive or negative? Comes with the package.

Sentences of Rotten Tomatoes reviews (Pang & Lee) with mean human ratings from -4 to 4 (Hutto &
Gilbert 2014), those rated at least 1 away from neutral. `movie_reviews/README.md` tells the origin.
"""

from collections.abc import Sequence
from pathlib import Path

from softprompt_jax.tasks.own_data import load_splits
from softprompt_jax.tasks.task import Example, Task, register_task

LABELS = ("negative", "positive")
SUFFIX = "\nsentiment:"
DATA_FILE = Path(__file__).parent / "movie_reviews" / "movie_reviews.tsv"


def _example(line: str) -> Example:
    row_id, score, review = line.split("\t")
    label = LABELS[float(score) > 0]
    return {"id": int(row_id), "score": float(score), "text": review, "label": label}


def _load(split: str) -> Sequence[Example]:
    return load_splits(DATA_FILE, _example, test_rows=1000, validation_rows=500)[split]


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
