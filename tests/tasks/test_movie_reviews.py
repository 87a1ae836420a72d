from collections import Counter

from softprompt_jax.tasks import SPLITS, get_task
from softprompt_jax.tasks.movie_reviews import DATA_FILE

FIRST_IDS = {
    "train": [10269, 5751, 7163, 7413],
    "validation": [9904, 1602, 7069, 10338],
    "test": [4585, 7509, 1136, 155],
}


def test_splits():
    task = get_task("movie_reviews")
    rows = {split: task.split(split) for split in SPLITS}
    assert {split: len(examples) for split, examples in rows.items()} == {
        "train": 7671,
        "validation": 500,
        "test": 1000,
    }
    every = [example for examples in rows.values() for example in examples]
    assert len({example["id"] for example in every}) == len(every)
    assert len({example["text"].lower() for example in every}) == len(every)
    for examples in rows.values():
        counts = Counter(example["label"] for example in examples)
        assert set(counts) == set(task.labels)
        assert min(counts.values()) > 0.45 * len(examples)
    assert all(abs(example["score"]) >= 1 for example in every)
    assert all((example["label"] == "positive") == (example["score"] > 0) for example in every)


def test_splits_never_change():
    """Reported scores name these splits; the first rows stand for all."""
    task = get_task("movie_reviews")
    assert {split: [row["id"] for row in task.split(split)[:4]] for split in SPLITS} == FIRST_IDS


def test_text():
    task = get_task("movie_reviews")
    example = {"text": "A fun ride.", "label": "positive"}
    pair = ("review: A fun ride.\nsentiment:", "positive")
    assert task.text_pairs(example, task_prefix=False) == [pair]
    assert task.text_pairs(example) == [("movie_reviews " + pair[0], "positive")]
    assert pair[0].endswith(task.input_suffix)
    text = DATA_FILE.read_text(encoding="utf-8")
    assert "clichés" in text
    for leftover in ("Ã", "&amp;", "\r", "  "):
        assert leftover not in text


def test_what_comes_with_the_data():
    assert "Permission is hereby granted" in (DATA_FILE.parent / "LICENSE").read_text()
    assert "Hutto" in (DATA_FILE.parent / "README.md").read_text(encoding="utf-8")
    assert DATA_FILE.stat().st_size < 1_200_000
