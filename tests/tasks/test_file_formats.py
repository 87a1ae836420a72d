import codecs
import csv
import itertools
import json
import random
import sys

import pytest

from softprompt_jax.errors import UserError
from softprompt_jax.tasks.file_formats import read_rows

COLUMNS = ("input", "target")


def rows_of(path, columns=COLUMNS, list_column=None):
    return list(read_rows(path, columns, list_column))


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def random_texts(count):
    generator = random.Random(0)
    pieces = [
        "a",
        "b c",
        '"',
        '""',
        ",",
        "\t",
        "\n",
        "\r\n",
        "\r",
        "é",
        "歌",
        "\u2028",
        "\x85",
        "'",
    ]
    return ["x" + "".join(generator.choices(pieces, k=6)) for _ in range(count)]


@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8])
def test_csv_is_what_the_csv_module_wrote(tmp_path, bom):
    texts = random_texts(200)
    path = tmp_path / "t.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([COLUMNS, *[(text, str(i)) for i, text in enumerate(texts)]])
    path.write_bytes(bom + path.read_bytes())
    rows = rows_of(path)
    assert [row for _, row in rows] == [
        {"input": text, "target": str(i)} for i, text in enumerate(texts)
    ]
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        ends = [0, *(reader.line_num for _ in reader)]
    # Each row is named by the line after the one where the row before it ended.
    assert [where for where, _ in rows] == [f"{path} line {end + 1}" for end in ends[1:-1]]


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("bom", [b"", codecs.BOM_UTF8])
def test_jsonl_and_tsv_and_text_end_lines_at_newlines_alone(tmp_path, newline, bom):
    texts = [
        text.replace("\t", "").replace("\n", "").replace("\r", "") for text in random_texts(99)
    ]
    assert any("\u2028" in text for text in texts)
    lines = [json.dumps({"input": t, "target": 1}, ensure_ascii=False) for t in texts]
    contents = {
        "t.jsonl": lines,
        "t.tsv": ["\t".join(COLUMNS), *[f"{text}\t1" for text in texts]],
        "t.txt": texts,
    }
    for name, content in contents.items():
        path = write(tmp_path, name, bom + newline.join(content).encode())
        column = "text" if name == "t.txt" else "input"
        assert [row[column] for _, row in read_rows(path, (column,))] == texts
        first = 2 if name == "t.tsv" else 1
        assert [where for where, _ in read_rows(path, (column,))] == [
            f"{path} line {i}" for i in range(first, first + len(texts))
        ]


def test_lone_carriage_returns_end_csv_lines(tmp_path):
    path = write(tmp_path, "t.csv", 'input,target\ra,b\r"c\rd",e\r')
    assert rows_of(path) == [
        (f"{path} line 2", {"input": "a", "target": "b"}),
        (f"{path} line 3", {"input": "c\rd", "target": "e"}),
    ]


def test_empty_lines_count_but_hold_no_row(tmp_path):
    path = write(tmp_path, "t.txt", "\n  \none document\n\r\n another \r\n")
    assert rows_of(path, ("text",)) == [
        (f"{path} line 3", {"text": "one document"}),
        (f"{path} line 5", {"text": " another "}),
    ]


@pytest.mark.parametrize("name", ["t.jsonl", "t.csv", "t.tsv", "t.txt"])
def test_rows_come_before_the_rest_is_read(tmp_path, name):
    line = {"t.jsonl": '{"text": "a"}\n', "t.csv": "a\n", "t.tsv": "a\n", "t.txt": "a\n"}[name]
    header = "" if name in ("t.jsonl", "t.txt") else "text\n"
    path = write(tmp_path, name, (header + line * 100_000).encode() + b"\xff\n")
    rows = read_rows(path, ("text",))
    assert [row for _, row in itertools.islice(rows, 1000)] == [{"text": "a"}] * 1000
    last = 100_001 + bool(header)
    with pytest.raises(UserError, match=rf"UTF-8 text \(byte \d+\) in line {last};"):
        list(rows)


def test_bytes_that_are_no_text(tmp_path):
    for bom in (b"", codecs.BOM_UTF8):
        content = bom + b"input,target\nfine,a\nna\xefve,a\n"
        place = content.index(b"\xef", 3)
        with pytest.raises(UserError, match=rf"is not UTF-8 text \(byte {place}\) in line 3"):
            rows_of(write(tmp_path, "t.csv", content))
    with pytest.raises(UserError, match=r"is not UTF-8 text \(byte 0\) in line 1"):
        rows_of(write(tmp_path, "t.csv", "input,target\na,b\n".encode("utf-16")))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.jsonl", '{"input": "a", "target": "b"}\n{"input": \n', r"t\.jsonl line 2 is not valid"),
        ("t.jsonl", '{"input": 1' + "0" * 5000 + "}\n", r"line 1 is not valid JSON \(Exceeds"),
        ("t.jsonl", '{"input": ' + "[" * 100_000 + "\n", r"line 1 is not valid JSON \(max"),
        ("t.jsonl", '\n["a", "b"]\n', r"t\.jsonl line 2 is not a JSON object"),
        ("t.jsonl", '{"input": "a"}\n', r"line 1 has no column 'target'; .*'input'"),
        ("t.jsonl", '{"input": null, "target": "b"}\n', r"line 1 has null in column 'input'"),
        ("t.jsonl", '{"input": ["a"], "target": "b"}\n', r'line 1 has \["a"\] in column'),
        ("t.jsonl", '{"input": "\\ud83d", "target": "b"}\n', r"line 1 has half a character"),
        ("t.csv", "input,label\na,b\n", r"no column 'target'; .*'input', 'label'"),
        ("t.csv", 'input,target\na,b\nc,"d\n', r"t\.csv line 3 is not valid CSV"),
        ("t.jsonl", '{"input": NaN, "target": "b"}\n', r"line 1 is not valid JSON \(NaN is no"),
        ("t.csv", "input,target\na\n", r"t\.csv line 2 has 1 cells"),
        ("t.csv", "input,input,target\na,b,c\n", r"line 1 names a column twice"),
        ("t.tsv", "input\ttarget\na\tb\n\nc\n", r"t\.tsv line 4 has 1 cells"),
        ("t.txt", "a\n", r"line 1 has no column 'input'; the columns found are 'text'"),
        ("t.json", "a\n", r"of no known kind; use \.jsonl, \.csv, \.tsv, \.parquet or \.txt"),
    ],
)
def test_malformed_files(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        rows_of(write(tmp_path, name, text))


def test_cells_may_be_longer_than_the_csv_module_has_them(tmp_path):
    ((_, row),) = rows_of(write(tmp_path, "t.csv", f"input,target\na,{'b' * 200_000}\n"))
    assert len(row["target"]) == 200_000


def test_empty_files_have_no_rows(tmp_path):
    for name, text in [
        ("t.jsonl", "\n"),
        ("t.csv", ""),
        ("t.csv", "input,target\n"),
        ("a.txt", ""),
    ]:
        assert rows_of(write(tmp_path, name, text)) == []


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"There is no file .*none\.csv"):
        rows_of(tmp_path / "none.csv")
    with pytest.raises(UserError, match="of no known kind"):
        rows_of(tmp_path)
    path = write(tmp_path, "t.csv", "input,target\na,b\n")

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(UserError, match=r"t\.csv cannot be read \(Permission denied\)"):
        rows_of(path)


def test_lists_of_answers(tmp_path):
    row = {"input": "a", "target": ["b", 1]}
    path = write(tmp_path, "t.jsonl", json.dumps(row))
    assert rows_of(path, list_column="target") == [(f"{path} line 1", row)]
    for target, shown in (
        ([], r"\[\]"),
        (["b", None], r'\["b", null\]'),
        ([["b"]], r'\[\["b"\]\]'),
    ):
        path = write(tmp_path, "t.jsonl", json.dumps(row | {"target": target}))
        with pytest.raises(UserError, match=f"line 1 has {shown} in column 'target'.* a list of"):
            rows_of(path, list_column="target")
    path = write(tmp_path, "t.jsonl", json.dumps(row | {"target": ["b", "\ud83d"]}))
    with pytest.raises(UserError, match="half a character"):
        rows_of(path, list_column="target")


# --- Parquet ---------------------------------------------------------------------------------


@pytest.fixture
def table(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def write_table(columns, name="t.parquet", **options):
        path = tmp_path / name
        parquet.write_table(pyarrow.table(columns), path, **options)
        return path

    return write_table


@pytest.mark.parametrize("options", [{}, {"row_group_size": 7, "compression": "none"}])
def test_parquet_rows(table, options):
    texts = random_texts(3000)
    columns = {"input": texts, "more": [b"\xff"] * 3000, "target": [[t, "b"] for t in texts]}
    path = table(columns, **options)
    assert rows_of(path, list_column="target") == [
        (f"{path} row {i}", {"input": text, "target": [text, "b"]})
        for i, text in enumerate(texts, start=1)
    ]


def test_parquet_values(table):
    import pyarrow

    words = pyarrow.array(["yes", "no", "yes"]).dictionary_encode()
    columns = {"input": [1.5, 2.0, -3.0], "target": words, "large": ["a", "b", None]}
    columns["large"] = pyarrow.array(columns["large"], pyarrow.large_string())
    path = table(columns)
    assert [row for _, row in rows_of(path)] == [
        {"input": 1.5, "target": "yes"},
        {"input": 2.0, "target": "no"},
        {"input": -3.0, "target": "yes"},
    ]
    with pytest.raises(UserError, match=r"t\.parquet row 3 has null in column 'large'"):
        rows_of(path, ("input", "large"))
    with pytest.raises(UserError, match=r"parquet has no column 'z'; .*'input', 'target', 'large'"):
        rows_of(path, ("input", "z"))
    path = table({"input": [b"a"], "target": [{"a": 1}]})
    with pytest.raises(UserError, match=r"row 1 has \"b'a'\" in column 'input'; it must be text"):
        rows_of(path)


def test_parquet_text_that_is_not_utf8(table):
    import pyarrow

    texts = pyarrow.array([b"a", b"b"] * 700 + [b"na\xefve"]).view(pyarrow.string())
    path = table({"input": texts, "target": ["x"] * 1401})
    with pytest.raises(UserError, match=r"t\.parquet row 1401 has text that is not UTF-8"):
        rows_of(path)


def test_damaged_parquet(table):
    path = table({"input": random_texts(5000), "target": ["x"] * 5000}, row_group_size=1000)
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=r"t\.parquet is not valid Parquet after row 0"):
        rows_of(path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(2000) + whole[middle + 2000 :])
    with pytest.raises(
        UserError, match=r"t\.parquet (is not valid Parquet after row [12]\d{3}|row)"
    ):
        rows_of(path)


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    path = write(tmp_path, "t.parquet", b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(UserError, match=r"pip install 'softprompt-jax\[parquet\]'"):
        rows_of(path)
