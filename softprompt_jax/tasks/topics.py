"""AG News and IMDB: topic and sentiment of longer texts, from tensorflow-datasets.

T5 has no cast of its own for these two. Neither data set has a validation split; it is the last
part of the training data, whose order TFDS shuffles once and for all.
"""

import re

from softprompt_jax.tasks.task import Example
from softprompt_jax.tasks.tfds_source import register_tfds_task

TOPICS = ("World", "Sports", "Business", "Sci/Tech")
SENTIMENTS = ("negative", "positive")

_LINE_BREAKS = re.compile(r"\s*(?:<br\s*/?>\s*)+", re.IGNORECASE)


def ag_news_pairs(example: Example) -> list[tuple[str, str]]:
    """The cast of AG News: title, description, and the topic as the target."""
    text = f"title: {example['title']} description: {example['description']}"
    return [(text, TOPICS[example["label"]])]


def imdb_pairs(example: Example) -> list[tuple[str, str]]:
    """The cast of IMDB: the review with a space for its HTML line breaks, and the sentiment."""
    if example["label"] == -1:  # of the split for unsupervised learning
        return []
    review = _LINE_BREAKS.sub(" ", example["text"]).strip()
    return [(f"review: {review}", SENTIMENTS[example["label"]])]


register_tfds_task(
    "ag_news_subset",
    pairs=ag_news_pairs,
    splits={"train": "train[:95%]", "validation": "train[95%:]", "test": "test"},
    labels=TOPICS,
)
# 96 % is 24,000 of the 25,000, the split of the authors' later work (Lester et al. 2022, prompt
# recycling).
register_tfds_task(
    "imdb_reviews",
    builder="imdb_reviews/plain_text",
    pairs=imdb_pairs,
    splits={"train": "train[:96%]", "validation": "train[96%:]", "test": "test"},
    labels=SENTIMENTS,
)
