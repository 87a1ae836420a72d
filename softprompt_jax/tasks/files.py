"""A task made of the user's own JSONL, CSV or TSV files."""

import csv
import io
import json
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from softprompt_jax.errors import UserError
from softprompt_jax.tasks.task import Example, Task


def file_task(
    name: str,
    *,
    train_file: str | Path,
    validation_file: str | Path | None = None,
    test_file: str | Path | None = None,
    input_column: str = "input",
    target_column: str = "target",
    input_template: str | None = None,
    labels: Sequence[str] | None = None,
    evaluation: Literal["score", "generate"] = "score",
    truncate: Literal["end", "start"] = "end",
) -> Task:
    """A task whose splits are files; all of them are read and checked at once.

    JSONL has one JSON object a line. CSV is as Python's csv module reads it, with a header line.
    TSV has a header line and no quoting: a quotation mark is a character like any other. All are
    UTF-8, with or without a byte order mark. White space around targets is dropped.

    Args:
        name: what the task is called.
        train_file: .jsonl, .csv or .tsv file of training rows.
        validation_file: rows that choose the best prompt.
        test_file: rows scored once at the end; optional.
        input_column: column that holds the input text.
        target_column: column that holds the target text or label.
        input_template: input built from columns, as in "question: {q} context: {c}", in place of
            `input_column`. Text after the last column is kept when long inputs are cut.
        labels: the labels of a classification task; None: those found in the training rows,
            sorted. With evaluation="generate" they are only checked, and none are looked for.
        evaluation: "score" for classification (metric accuracy), "generate" for free text (metric
            exact_match).
        truncate: which end of a too long input is cut.

    Raises:
        UserError: a file is missing or malformed (with its line), a column is missing, a split is
            empty, or a row has a label that the training rows or `labels` lack.
    """
    if validation_file is None:
        raise UserError(
            f"Task {name} has a train_file but no validation_file, which chooses the best prompt; "
            "give one."
        )
    fields, input_suffix = _parse_template(input_template)
    columns = tuple(dict.fromkeys((*(fields or [input_column]), target_column)))

    def pairs(example: Example) -> list[tuple[str, str]]:
        if input_template is None:
            text = _text(example[input_column])
        else:
            text = input_template.format(**{field: _text(example[field]) for field in fields})
        return [(text, _text(example[target_column]).strip())]

    splits: dict[str, list[dict[str, Any]]] = {}
    targets: dict[str, list[tuple[str, str]]] = {}  # split -> (where, target), for errors
    for split, given in (
        ("train", train_file),
        ("validation", validation_file),
        ("test", test_file),
    ):
        if given is None:
            continue
        path = Path(given)
        splits[split], targets[split] = [], []
        for line, row in _read(path, columns):
            splits[split].append(row)
            targets[split].append((f"{path} line {line}", pairs(row)[0][1]))
        if not splits[split]:
            raise UserError(f"The {split} file {path} has no rows; it needs at least one.")

    known: tuple[str, ...] = ()
    if evaluation == "score" or labels is not None:
        known = _labels(name, labels, targets)
    return Task(
        name=name,
        load=splits.__getitem__,
        pairs=pairs,
        labels=known,
        metrics=("accuracy",) if evaluation == "score" else ("exact_match",),
        evaluation=evaluation,
        truncate=truncate,
        input_suffix=input_suffix,
        splits=tuple(splits),
    )


def _labels(
    name: str, labels: Sequence[str] | None, targets: dict[str, list[tuple[str, str]]]
) -> tuple[str, ...]:
    if labels is None:
        counts = Counter(target for _, target in targets["train"])
        known = tuple(sorted(counts))
        # Free text scored as if it were labels would cost one pass per distinct training row.
        if len(known) > 50 and 2 * len(known) > len(targets["train"]):
            raise UserError(
                f"Task {name} has {len(known)} different targets in {len(targets['train'])} "
                "training rows, so they are no labels; use evaluation='generate' or give labels."
            )
        source = "the training rows have only"
    else:
        if isinstance(labels, str):
            raise UserError(f"Task {name} has labels={labels!r}; give a list of strings.")
        known = tuple(label.strip() for label in labels)
        source = "the labels are"
        if len(set(known)) < len(known) or "" in known:
            raise UserError(f"Task {name} has empty or repeated labels in {list(labels)}; mend it.")
    for rows in targets.values():
        for where, target in rows:
            if not target:
                raise UserError(f"{where} has an empty label; fill it in or remove the row.")
            if target not in known:
                shown = ", ".join(known[:20]) + (", …" if len(known) > 20 else "")
                raise UserError(
                    f"{where} has the label {target!r}, but {source} {shown}; correct it or add "
                    "the label."
                )
    return known


def _parse_template(template: str | None) -> tuple[list[str], str]:
    """The columns that a template names, and the literal text after the last of them."""
    if template is None:
        return [], ""
    fields, suffix = [], ""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"The input_template {template!r} is malformed ({error}).") from None
    for literal, field, spec, conversion in parts:
        suffix += literal
        if field is None:
            continue
        # Plain columns only: format's attribute access, indexes and specs have no use in a text.
        if not field or spec or conversion or any(c in field for c in ".[]") or field.isdigit():
            raise UserError(
                f"The input_template {template!r} has the field {{{field}}}; name a column as in "
                "{question}, and write {{ and }} for braces."
            )
        fields.append(field)
        suffix = ""
    if not fields:
        raise UserError(
            f"The input_template {template!r} names no column; write one as in {{question}}."
        )
    return fields, suffix


def _read(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (line number, row) of a file whose rows all have the columns."""
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".tsv": _read_tsv}
    if path.suffix.lower() not in readers:
        raise UserError(f"The file {path} is of no known kind; use .jsonl, .csv or .tsv.")
    if not path.is_file():
        raise UserError(f"There is no file {path}; check the path.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"The file {path} is not UTF-8 text (byte {error.start}); save it as UTF-8."
        ) from None
    except OSError as error:
        raise UserError(f"The file {path} cannot be read ({error.strerror}).") from None
    for line, row in readers[path.suffix.lower()](path, text):
        for column in columns:
            if column not in row:
                raise UserError(
                    f"{path} line {line} has no column {column!r}; the columns found are "
                    f"{', '.join(map(repr, row))}."
                )
            if not isinstance(row[column], str | int | float):
                raise UserError(
                    f"{path} line {line} has {json.dumps(row[column])[:40]} in column {column!r}; "
                    "it must be text or a number."
                )
            # JSON can spell half of a character, "\\ud83d", which no tokenizer takes.
            if isinstance(row[column], str) and any("\ud800" <= c <= "\udfff" for c in row[column]):
                raise UserError(
                    f"{path} line {line} has half a character (a lone surrogate) in column "
                    f"{column!r}; remove it."
                )
        yield line, row


def _read_jsonl(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): JSON strings may hold U+2028 and the like, which are no line ends here.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except json.JSONDecodeError as error:
            raise UserError(f"{path} line {line} is not valid JSON ({error.msg}).") from None
        if not isinstance(row, dict):
            raise UserError(f"{path} line {line} is not a JSON object; write one object a line.")
        yield line, row


def _read_csv(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows = []
    end = 0
    try:
        for cells in reader:
            if cells:
                rows.append((end + 1, cells))  # a quoted cell may span lines: name the first
            end = reader.line_num
    except csv.Error as error:
        raise UserError(f"{path} line {end + 1} is not valid CSV ({error}).") from None
    return _table(path, rows)


def _read_tsv(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    lines = enumerate(text.replace("\r\n", "\n").split("\n"), start=1)
    return _table(path, [(line, content.split("\t")) for line, content in lines if content])


def _table(
    path: Path, rows: Sequence[tuple[int, list[str]]]
) -> Iterator[tuple[int, dict[str, Any]]]:
    if not rows:
        return
    header = rows[0][1]
    if len(set(header)) < len(header):
        raise UserError(f"{path} line {rows[0][0]} names a column twice: {', '.join(header)}.")
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise UserError(
                f"{path} line {line} has {len(cells)} cells, but the header has {len(header)}; "
                "correct the row."
            )
        yield line, dict(zip(header, cells, strict=True))


def _text(value: Any) -> str:
    # JSON numbers and booleans are read as they are written: 1 -> "1", true -> "true".
    return value if isinstance(value, str) else json.dumps(value)
