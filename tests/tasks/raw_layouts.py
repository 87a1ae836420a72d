"""Small made-up data in the raw layouts of SuperGLUE and of Definite Pronoun Resolution."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RAIN = "It rained in Füssen. It was cold."
PARAGRAPH = "<b>Sent 1: </b>Bo ran.<br><b>Sent 2: </b>Di sat.<br>"
PASSAGE = "Penguins met pigeons in Oslo\n@highlight\nOslo is cold.\n@highlight\nBirds like Oslo"


def _entity(word: str) -> dict[str, int]:
    start = PASSAGE.index(word)
    return {"start": start, "end": start + len(word) - 1}  # the end is the last character


def _answer(word: str) -> dict[str, Any]:
    return {**_entity(word), "text": word}


def _multirc(idx: int, questions: list[tuple[int, str, list[tuple[int, str, int | None]]]]):
    def answer(at, text, label):
        return {"text": text, "idx": at} | ({} if label is None else {"label": label})

    listed = [
        {"question": question, "idx": at, "answers": [answer(*each) for each in answers]}
        for at, question, answers in questions
    ]
    passage = {"text": PARAGRAPH, "questions": listed}
    return {"idx": idx, "version": 1.1, "passage": passage}


def _record(idx: int, qas: list[tuple[int, str, list[str]]]):
    # Entities come as places in the text, some of them several times.
    entities = [_entity(word) for word in ("pigeons", "Oslo", "Penguins", "Oslo")]
    return {
        "source": "Daily mail",
        "idx": idx,
        "passage": {"text": PASSAGE, "entities": entities},
        "qas": [
            {"query": query, "idx": at, "answers": [_answer(word) for word in answers]}
            for at, query, answers in qas
        ],
    }


def _wic(idx: int, label: bool, word: str, sentence1: str, sentence2: str):
    at1, at2 = sentence1.index(word), sentence2.index(word)
    places = {"start1": at1, "end1": at1 + len(word), "start2": at2, "end2": at2 + len(word)}
    fields = {"word": word, "sentence1": sentence1, "sentence2": sentence2}
    return {**fields, "idx": idx, "label": label, **places, "version": 1.1}


def _wsc(idx: int, label: bool, text: str, span1: tuple[int, str], span2: tuple[int, str]):
    target = {
        "span1_index": span1[0],
        "span1_text": span1[1],
        "span2_index": span2[0],
        "span2_text": span2[1],
    }
    return {"text": text, "target": target, "idx": idx, "label": label}


def _without_label(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name not in ("label", "answers")}


# Data set -> split -> rows of the JSONL file.
SUPER_GLUE: dict[str, dict[str, list[dict[str, Any]]]] = {
    "BoolQ": {
        "train": [
            {"question": "did it rain in füssen", "passage": RAIN, "idx": 0, "label": True},
            {"question": "was it warm", "passage": RAIN, "idx": 1, "label": False},
        ],
        "val": [{"question": "is this so", "passage": "It is.", "idx": 0, "label": True}],
    },
    "CB": {
        "train": [
            {"premise": "He knew it.", "hypothesis": "it is", "label": "entailment", "idx": 0},
            {"premise": "It's false.", "hypothesis": "it is", "label": "contradiction", "idx": 1},
        ],
        "val": [
            {"premise": "Is it?", "hypothesis": "it is", "label": "neutral", "idx": 0},
            {"premise": "It is.", "hypothesis": "it is", "label": "entailment", "idx": 1},
            {"premise": "It isn't.", "hypothesis": "it is", "label": "contradiction", "idx": 2},
        ],
    },
    "COPA": {
        "train": [
            {
                "premise": "The glass fell.",
                "choice1": "It broke.",
                "choice2": "It flew.",
                "question": "effect",
                "label": 0,
                "idx": 0,
            },
            {
                "premise": "The lawn is wet.",
                "choice1": "I sat.",
                "choice2": "It rained.",
                "question": "cause",
                "label": 1,
                "idx": 1,
            },
        ],
        "val": [
            {
                "premise": "P.",
                "choice1": "A.",
                "choice2": "B.",
                "question": "cause",
                "label": 1,
                "idx": 0,
            }
        ],
    },
    "MultiRC": {
        "train": [
            _multirc(0, [(0, "Who ran?", [(0, "Bo", 1), (1, "Di", 0)])]),
            _multirc(1, [(1, "Who <b>sat</b>?", [(2, "Di", 1)])]),
        ],
        "val": [
            _multirc(0, [(0, "Who ran?", [(0, "Bo", 1), (1, "Jo", 0)]), (1, "Why?", [(2, "?", 0)])])
        ],
    },
    "ReCoRD": {
        "train": [
            _record(0, [(0, "@placeholder met in Oslo", ["pigeons", "Penguins", "Penguins"])]),
            _record(1, [(1, "They met in @placeholder", ["Oslo"])]),
        ],
        "val": [_record(0, [(0, "@placeholder flew", ["Penguins", "pigeons"])])],
    },
    "RTE": {
        "train": [
            {"premise": "Bo ran.", "hypothesis": "Bo moved.", "label": "entailment", "idx": 0},
            {"premise": "Bo ran.", "hypothesis": "Di ran.", "label": "not_entailment", "idx": 1},
        ],
        "val": [{"premise": "P.", "hypothesis": "H.", "label": "not_entailment", "idx": 0}],
    },
    "WiC": {
        "train": [
            _wic(0, True, "bed", "trash on the bed", "a bed of straw"),
            _wic(1, False, "bed", "the bed of a river", "a bed of straw"),
        ],
        "val": [_wic(0, False, "place", "come to my place", "a place in art")],
    },
    "WSC": {
        "train": [
            _wsc(0, True, "Bo told Di that he ran .", (0, "Bo"), (4, "he")),
            _wsc(1, False, "Bo told Di that he ran .", (2, "Di"), (4, "he")),
            # Spans as they are wrong in the published data: another case, a full stop.
            _wsc(2, True, "The dog saw that it ran .", (0, "the dog"), (4, "it.")),
        ],
        "val": [
            _wsc(0, False, "The cat saw that she ran .", (0, "the cat"), (4, "she")),
            _wsc(1, True, "Di saw that she ran .", (0, "Di"), (3, "she")),
        ],
    },
}


def write_jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def write_super_glue(folder: Path, name: str) -> Path:
    """Writes what one of SuperGLUE's archives holds, and gives the folder it is unpacked in."""
    splits = SUPER_GLUE[name]
    for split, rows in splits.items():
        write_jsonl(folder / name / f"{split}.jsonl", rows)
    write_jsonl(folder / name / "test.jsonl", map(_without_label, splits["val"]))
    return folder


def write_pronoun_resolution(folder: Path) -> dict[str, Path]:
    """Writes its two files and gives them by name, as its builder downloads them."""
    rows = {
        "train": [
            ("Bob asked Tom if he can help.", "he", "Bob,Tom", "Tom"),
            ("The bees liked flowers, and people kept them.", "them", "The bees, flowers",
             "The bees"),
        ],
        "test": [("The dog chased the cat, which ran.", "which", "The dog,the cat", "the cat")],
    }  # fmt: skip
    files = {}
    for split, texts in rows.items():
        files[split] = folder / f"{split}.c.txt"
        blocks = ["".join(line + "\n" for line in lines) + "\n" for lines in texts]
        files[split].write_text("".join(blocks), encoding="utf-8")
    return files
