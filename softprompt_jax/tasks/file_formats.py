"""The rows of JSONL, CSV, TSV, Parquet and text files, one after the other, each checked."""

import codecs
import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from softprompt_jax.errors import UserError

Row = dict[str, Any]

_CELL_CHARACTERS = 2**24  # of a CSV file; what is longer has lost a quotation mark
_PARQUET_ROWS = 1024  # read at a time
_PARQUET_BUFFER = 2**20  # bytes; without it pyarrow holds whole columns of a row group


def read_rows(
    path: Path, columns: Sequence[str], list_column: str | None = None
) -> Iterator[tuple[str, Row]]:
    """Reads a file from its start, holding a few rows at a time.

    JSONL has one JSON object a line. CSV is as Python's csv module reads it, with a header line.
    TSV has a header line and no quoting: a quotation mark is a character like any other. A .txt
    file has one document a line, in the column "text". All of them are UTF-8, with or without a
    byte order mark, and empty lines are passed over. Parquet needs pyarrow; only the columns that
    are asked for are read.

    Args:
        path: .jsonl, .csv, .tsv, .parquet or .txt file.
        columns: columns that each row must have, with text, a number, true or false in them.
        list_column: the one of them that may also hold a list of such values.

    Yields:
        Where the row stands, as "train.csv line 7", lines and rows counted from 1; and the row.

    Raises:
        UserError: the file is missing, cannot be read or is of no known kind, or a row is malformed
            or lacks a column.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        *kinds, last = _READERS
        raise UserError(f"The file {path} is of no known kind; use {', '.join(kinds)} or {last}.")
    if not path.is_file():
        raise UserError(f"There is no file {path}; check the path.")
    try:
        for where, row in reader(path, columns):
            for column in columns:
                _check_cell(where, row, column, column == list_column)
            yield where, row
    except OSError as error:
        raise UserError(f"The file {path} cannot be read ({error.strerror}).") from None


def _check_cell(where: str, row: Row, column: str, may_be_list: bool) -> None:
    if column not in row:
        raise _no_column(where, column, row)
    value = row[column]
    values = value if may_be_list and isinstance(value, list) and value else [value]
    for each in values:
        if not isinstance(each, str | int | float):  # a bool is an int
            asked = "text, a number, true or false" + ", or a list of those" * may_be_list
            shown = json.dumps(value, default=repr)[:40]
            raise UserError(f"{where} has {shown} in column {column!r}; it must be {asked}.")
        # JSON can spell half of a character, "\\ud83d", which no tokenizer takes.
        if isinstance(each, str) and not _is_whole(each):
            raise UserError(
                f"{where} has half a character (a lone surrogate) in column {column!r}; remove it."
            )


def _is_whole(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _no_column(where: str, column: str, found: Sequence[str] | Row) -> UserError:
    return UserError(
        f"{where} has no column {column!r}; the columns found are {', '.join(map(repr, found))}."
    )


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yields (number, text) of each line, its line end included."""
    # As bytes: JSON strings may hold U+2028 and the like, which are no line ends here, and an error
    # in the encoding can be told by its place in the file.
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
            try:
                yield number, content.decode("utf-8")
            except UnicodeDecodeError as error:
                place = start + len(line) - len(content) + error.start
                raise UserError(
                    f"The file {path} is not UTF-8 text (byte {place}) in line {number}; save it "
                    "as UTF-8."
                ) from None
            start += len(line)


def _read_jsonl(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    for number, content in _lines(path):
        if not content.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(content, parse_constant=_constant)
        # A number of thousands of digits is a ValueError, brackets as deep a RecursionError.
        except (ValueError, RecursionError) as error:
            problem = error.msg if isinstance(error, json.JSONDecodeError) else error
            raise UserError(f"{where} is not valid JSON ({problem}).") from None
        if not isinstance(row, dict):
            raise UserError(f"{where} is not a JSON object; write one object a line.")
        yield where, row


def _constant(name: str) -> float:
    """Infinities are numbers that Python writes; NaN is how tables write that there is none."""
    if name == "NaN":
        raise ValueError("NaN is no value")
    return float(name)


def _read_csv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    def lines() -> Iterator[str]:
        for _, content in _lines(path):
            # The csv module wants lines that end at a lone "\r", as old files have them, too.
            if "\r" in content.removesuffix("\r\n"):
                yield from io.StringIO(content, newline="")
            else:
                yield content

    def rows() -> Iterator[tuple[int, list[str]]]:
        # The module's own limit of a cell, 128 KiB, is shorter than texts may be.
        csv.field_size_limit(max(csv.field_size_limit(), _CELL_CHARACTERS))
        reader = csv.reader(lines(), strict=True)
        end = 0
        try:
            for cells in reader:
                if cells:
                    yield end + 1, cells  # a quoted cell may span lines: name the first
                end = reader.line_num
        except csv.Error as error:
            raise UserError(
                f"{path} line {end + 1} is not valid CSV ({error}); check its quotation marks, or "
                "use JSONL."
            ) from None

    return _table(path, rows())


def _read_tsv(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    lines = ((number, _without_end(content)) for number, content in _lines(path))
    return _table(path, ((number, content.split("\t")) for number, content in lines if content))


def _table(path: Path, rows: Iterator[tuple[int, list[str]]]) -> Iterator[tuple[str, Row]]:
    first = next(rows, None)
    if first is None:
        return
    number, header = first
    if len(set(header)) < len(header):
        raise UserError(f"{path} line {number} names a column twice: {', '.join(header)}.")
    for number, cells in rows:
        where = f"{path} line {number}"
        if len(cells) != len(header):
            raise UserError(
                f"{where} has {len(cells)} cells, but the header has {len(header)}; correct the "
                "row."
            )
        yield where, dict(zip(header, cells, strict=True))


def _read_text(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    for number, content in _lines(path):
        if content.strip():
            yield f"{path} line {number}", {"text": _without_end(content)}


def _without_end(line: str) -> str:
    return line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[tuple[str, Row]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(
            f"Reading {path} needs pyarrow, which is not installed; run "
            "pip install 'softprompt-jax[parquet]'."
        ) from None
    number = 0
    try:
        with parquet.ParquetFile(path, pre_buffer=False, buffer_size=_PARQUET_BUFFER) as file:
            found = file.schema_arrow.names
            for column in columns:
                if column not in found:
                    raise _no_column(str(path), column, found)
            for batch in file.iter_batches(_PARQUET_ROWS, columns=list(columns)):
                try:
                    rows = batch.to_pylist()
                except UnicodeDecodeError:
                    raise _not_utf8(path, batch, number) from None
                for number, row in enumerate(rows, start=number + 1):  # noqa: B020
                    yield f"{path} row {number}", row
    except (pyarrow.ArrowException, OSError) as error:
        problem = str(error).strip().partition("\n")[0]
        raise UserError(
            f"The file {path} is not valid Parquet after row {number} ({problem}); write it anew."
        ) from None


def _not_utf8(path: Path, batch: Any, rows_before: int) -> UserError:
    bad = 0
    for i in range(batch.num_rows):
        try:
            batch.slice(i, 1).to_pylist()
        except UnicodeDecodeError:
            bad = rows_before + i + 1
            break
    return UserError(f"{path} row {bad} has text that is not UTF-8; correct it.")


_READERS: dict[str, Callable[[Path, Sequence[str]], Iterator[tuple[str, Row]]]] = {
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
