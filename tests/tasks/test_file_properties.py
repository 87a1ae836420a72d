"""Rows that Python's csv and json modules, pyarrow or plain writing put into a file come back."""

import csv
import io
import json
import re

import pyarrow
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from properties import repeatable
from pyarrow import parquet

from softprompt_jax.tasks.file_formats import read_rows

NO_SURROGATES = st.characters(exclude_categories=["Cs"])
# Characters that some reader may take for an end of a line or of a cell.
CHARACTERS = st.sampled_from('ab,";|\n\r\t \x0b\x0c\x1c\x85\u2028\u2029\ufeff\0') | NO_SURROGATES
CELLS = st.text(CHARACTERS, max_size=6)
BOM = "\ufeff"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def tables(cells, least_columns=1):
    """A header of different names, and rows of as many cells."""
    return st.integers(least_columns, 4).flatmap(
        lambda n: st.tuples(
            st.lists(cells, min_size=n, max_size=n, unique=True),
            st.lists(st.lists(cells, min_size=n, max_size=n), max_size=6),
        )
    )


def written(folder, name, text, bom):
    path = folder / name
    path.write_bytes((BOM + text if bom else text).encode())
    return path


@repeatable(200)
@given(
    tables(CELLS),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    st.booleans(),
)
def test_csv(folder, table, line_end, quoting, bom):
    header, rows = table
    # Before Python 3.13 the writer leaves a lone "\\r" without quotes unless its lines end so.
    assume(quoting or "\r" in line_end or "\r" not in "".join(map("".join, (header, *rows))))
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=line_end, quoting=quoting)
    starts = []
    for row in (header, *rows):
        starts.append(1 + len(re.findall("\r\n|\r|\n", text.getvalue())))
        writer.writerow(row)
    # A mark at the very beginning is one of the byte order, whoever wrote it.
    assume(bom or not text.getvalue().startswith(BOM))
    path = written(folder, "t.csv", text.getvalue(), bom)
    assert list(read_rows(path, header)) == [
        (f"{path} line {start}", dict(zip(header, row, strict=True)))
        for start, row in zip(starts[1:], rows, strict=True)
    ]


@repeatable(150)
@given(
    tables(st.text(CHARACTERS.filter(lambda c: c not in "\t\n"), max_size=6), least_columns=2),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
)
def test_tsv(folder, table, line_end, ends, bom):
    header, rows = table
    lines = ["\t".join(row) for row in (header, *rows)]
    # A carriage return before the line end is taken for a part of it.
    assume(not any(line.endswith("\r") for line in lines))
    text = line_end.join(lines) + (line_end if ends else "")
    assume(bom or not text.startswith(BOM))
    path = written(folder, "t.tsv", text, bom)
    assert list(read_rows(path, header)) == [
        (f"{path} line {number}", dict(zip(header, row, strict=True)))
        for number, row in enumerate(rows, start=2)
    ]


VALUES = CELLS | st.integers() | st.floats(allow_nan=False) | st.booleans()
NESTED = st.recursive(
    VALUES | st.none(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(CELLS, inner, max_size=2),
    max_leaves=4,
)


@repeatable(150)
@given(
    st.lists(
        st.tuples(VALUES, st.lists(VALUES, min_size=1, max_size=3) | VALUES, NESTED), max_size=6
    ),
    st.booleans(),
    st.sampled_from(["\n", "\r\n", "\n \n\n"]),
    st.booleans(),
)
def test_jsonl(folder, rows, ascii_only, line_end, bom):
    rows = [{"input": text, "target": target, "more": more} for text, target, more in rows]
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    path = written(folder, "t.jsonl", line_end.join(lines), bom)
    found = list(read_rows(path, ["input", "target"], "target"))
    assert [row for _, row in found] == rows
    numbers = [1 + index * line_end.count("\n") for index in range(len(rows))]
    assert [where for where, _ in found] == [f"{path} line {number}" for number in numbers]


@repeatable(120)
@given(
    st.lists(st.text(CHARACTERS.filter(lambda c: c != "\n"), max_size=8), max_size=6),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_text(folder, lines, line_end, bom):
    assume(not any(line.endswith("\r") for line in lines))
    text = "".join(line + line_end for line in lines)
    assume(bom or not text.startswith(BOM))
    path = written(folder, "t.txt", text, bom)
    assert list(read_rows(path, ["text"])) == [
        (f"{path} line {number}", {"text": line})
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]


@repeatable(40)
@given(
    st.lists(
        st.tuples(CELLS, st.lists(CELLS, min_size=1, max_size=3), st.integers(-9, 9)), max_size=6
    ),
    st.integers(1, 4),
)
def test_parquet(folder, rows, group):
    names = ("input", "target", "number")
    kinds = (pyarrow.string(), pyarrow.list_(pyarrow.string()), pyarrow.int64())
    columns = [pyarrow.array([row[i] for row in rows], kind) for i, kind in enumerate(kinds)]
    path = folder / "t.parquet"
    parquet.write_table(pyarrow.table(columns, names=[*names]), path, row_group_size=group)
    found = list(read_rows(path, ["number", "target"], "target"))
    assert found == [
        (f"{path} row {number}", {"number": row[2], "target": row[1]})
        for number, row in enumerate(rows, start=1)
    ]
