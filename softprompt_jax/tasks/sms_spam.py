"""sms_spam: is a text message spam? Comes with the package.

The SMS Spam Collection (Almeida, Hidalgo, Yamakami 2011) without repeated messages; 12 % are spam.
`sms_spam/README.md` tells the origin.
"""

from collections.abc import Sequence
from pathlib import Path

from softprompt_jax.tasks.own_data import load_splits
from softprompt_jax.tasks.task import Example, Task, register_task

LABELS = ("normal", "spam")
SUFFIX = "\nkind:"
DATA_FILE = Path(__file__).parent / "sms_spam" / "sms_spam.tsv"


def _example(line: str) -> Example:
    row_id, spam, text = line.split("\t")
    return {"id": int(row_id), "text": text, "label": LABELS[int(spam)]}


def _load(split: str) -> Sequence[Example]:
    return load_splits(DATA_FILE, _example, test_rows=1000, validation_rows=500)[split]


def _pairs(example: Example) -> list[tuple[str, str]]:
    return [(f"message: {example['text']}{SUFFIX}", example["label"])]


def _sms_spam() -> Task:
    return Task(
        name="sms_spam",
        load=_load,
        pairs=_pairs,
        labels=LABELS,
        # Who says "normal" to all is right in 88 % of the messages, and has an F1 of 0.
        metrics=("f1", "accuracy"),
        input_suffix=SUFFIX,
    )


register_task("sms_spam", _sms_spam)
