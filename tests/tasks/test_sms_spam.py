from collections import Counter

from softprompt_jax.tasks import SPLITS, get_task
from softprompt_jax.tasks.sms_spam import DATA_FILE

FIRST_IDS = {
    "train": [4087, 3190, 1206, 2728],
    "validation": [1783, 4759, 2489, 2069],
    "test": [398, 598, 749, 2567],
}


def test_splits():
    task = get_task("sms_spam")
    rows = {split: task.split(split) for split in SPLITS}
    assert {split: len(examples) for split, examples in rows.items()} == {
        "train": 3011,
        "validation": 500,
        "test": 1000,
    }
    every = [example for examples in rows.values() for example in examples]
    assert len({example["id"] for example in every}) == len(every)
    assert len({example["text"].lower() for example in every}) == len(every)
    for examples in rows.values():
        counts = Counter(example["label"] for example in examples)
        assert set(counts) == {"normal", "spam"}
        assert 0.09 < counts["spam"] / len(examples) < 0.15


def test_splits_never_change():
    task = get_task("sms_spam")
    first = {split: [row["id"] for row in task.split(split)[:4]] for split in SPLITS}
    assert first == FIRST_IDS


def test_who_says_normal_to_all_scores_nothing():
    task = get_task("sms_spam")
    references = [task.evaluation_rows(example)[0][1] for example in task.split("test")]
    metrics = task.evaluate(["normal"] * 1000, references)
    assert metrics["f1"] == 0
    assert metrics["accuracy"] > 0.85


def test_text():
    task = get_task("sms_spam")
    example = {"text": "Ok lar...", "label": "normal"}
    pair = ("message: Ok lar...\nkind:", "normal")
    assert task.text_pairs(example, task_prefix=False) == [pair]
    text = DATA_FILE.read_text(encoding="utf-8")
    for leftover in ("&amp;", "&lt;", "\r", "  ", '""'):
        assert leftover not in text
