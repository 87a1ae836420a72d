"""What is a row, what is none, and an output file that survives being killed."""

import errno
import fcntl
import io
import json
import os
from pathlib import Path

import pytest

from softprompt_jax.errors import UserError
from softprompt_jax.inference.row_files import (
    LONGEST_LINE,
    BadRow,
    ResumableOutput,
    Row,
    json_line,
    read_lines,
    read_rows,
)

LABELS = {"boolq": ("no", "yes"), "free": ()}
TEXT = '"text": "is it?", "prompt": "boolq"'
JOB = {"input": "abc", "seed": 0}


def rows_of(data, labels=LABELS):
    return list(read_rows(read_lines(io.BytesIO(data)), labels))


def row_of(line, labels=LABELS):
    (row,) = rows_of(line if isinstance(line, bytes) else line.encode(), labels)
    return row


def test_good_rows():
    data = (
        b'\xef\xbb\xbf{"text": "is it?", "prompt": "boolq"}\r\n'
        b"\n  \t \n"
        b'{"prompt": "free", "text": " caf\xc3\xa9 ", "id": "x"}\n'
        b'{"prompt": "free", "text": "t", "choices": ["b", "a"], "id": null}\n'
        b'{"prompt": "boolq", "text": "t", "choices": null, "id": 1.5}'
    )
    assert rows_of(data) == [
        Row(1, "is it?", "boolq", ("no", "yes"), {}),
        Row(4, " café ", "free", None, {"id": "x"}),
        Row(5, "t", "free", ("b", "a"), {"id": None}),
        Row(6, "t", "boolq", ("no", "yes"), {"id": 1.5}),
    ]
    assert rows_of(b"") == []


@pytest.mark.parametrize("line", ['{"text": "t"}', '{"text": "t", "prompt": null}'])
def test_a_single_prompt_needs_no_name(line):
    assert row_of(line, {"only": ("a", "b")}).prompt == "only"
    assert row_of(line).error == "The row names no prompt; there are boolq, free."


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b'{"text": "\xff", "prompt": "free"}', "not UTF-8 text (byte 10)"),
        ('{"text": ', "not valid JSON"),
        ("{'text': 1}", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ("1" * 5000, "not valid JSON"),
        (f'{{"id": NaN, {TEXT}}}', "not valid JSON (NaN is no number)"),
        (f'{{"id": -Infinity, {TEXT}}}', "not valid JSON (-Infinity is no number)"),
        (f'{{"id": 1e999, {TEXT}}}', "id is neither a text nor a number"),
        (f'{{"id": [1], {TEXT}}}', "id is neither a text nor a number"),
        ('["text"]', "not a JSON object"),
        ("17", "not a JSON object"),
        (f'{{"txet": "x", {TEXT}}}', "has the field 'txet'; it may have text, prompt, choices, id"),
        ('{"prompt": "boolq"}', "has no text"),
        ('{"prompt": "boolq", "text": 5}', "has no text"),
        ('{"prompt": "boolq", "text": ["a"]}', "has no text"),
        ('{"prompt": "boolq", "text": " \\n\\t"}', "text is empty"),
        ('{"text": "t", "prompt": "rte"}', "no prompt 'rte'; there are boolq, free"),
        ('{"text": "t", "prompt": ["boolq"]}', "no prompt ['boolq']"),
        ('{"text": "t", "prompt": {}}', "no prompt {}"),
        (f'{{{TEXT}, "choices": "ab"}}', "no list of strings"),
        (f'{{{TEXT}, "choices": ["a", 1]}}', "no list of strings"),
        (f'{{{TEXT}, "choices": ["a"]}}', "at least two different"),
        (f'{{{TEXT}, "choices": []}}', "at least two different"),
        (f'{{{TEXT}, "choices": ["a", "a"]}}', "at least two different"),
        (f'{{{TEXT}, "choices": ["a", " "]}}', "at least two different"),
        (f'{{{TEXT}, "choices": {json.dumps([*map(str, range(1001))])}}}', "has 1001 choices"),
        ('{"prompt": "free", "text": "a\\ud800b"}', "half a character"),
        (f'{{{TEXT}, "choices": ["a", "\\udc00"]}}', "half a character"),
    ],
)
def test_bad_rows(line, error):
    bad = row_of(line)
    assert isinstance(bad, BadRow)
    assert bad.line == 1
    assert error in bad.error
    assert len(bad.error) < 200
    assert json.loads(json_line(bad.as_dict())) == {"line": 1, "error": bad.error}


def test_a_bad_row_keeps_its_id_and_its_neighbours():
    data = b'{"id": 7, "text": "t"}\n{broken\n{"id": 8, "text": "t", "prompt": "free"}\n'
    first, second, third = rows_of(data)
    assert first.as_dict()["id"] == 7
    assert list(second.as_dict()) == ["line", "error"]
    assert third == Row(3, "t", "free", None, {"id": 8})


def test_a_long_name_makes_no_long_error():
    bad = row_of(json.dumps({"text": "t", "prompt": "x" * 10_000}))
    assert len(bad.error) < 120


def test_lines_of_any_length_take_bounded_memory():
    good = b'{"text": "t", "prompt": "free"}\n'
    longest = json.dumps({"text": "", "prompt": "free"}).encode()
    longest = longest.replace(b'""', b'"' + b"x" * (LONGEST_LINE - len(longest) - 1) + b'"') + b"\n"
    assert len(longest) == LONGEST_LINE
    data = good + b"x" * (3 * LONGEST_LINE) + b"\n" + longest + b"y" * (2 * LONGEST_LINE + 1)
    lines = list(read_lines(io.BytesIO(data)))
    assert max(map(len, lines)) == LONGEST_LINE + 1
    rows = rows_of(data)
    assert [row.line for row in rows] == [1, 2, 3, 4]
    assert [isinstance(row, Row) for row in rows] == [True, False, True, False]
    assert f"more than {LONGEST_LINE} bytes" in rows[1].error


def test_lines_come_as_they_are_written():
    class Pipe(io.RawIOBase):
        asked = 0

        def readable(self):
            return True

        def readinto(self, buffer):
            Pipe.asked += 1
            buffer[:4] = b"abc\n"
            return 4

    lines = read_lines(io.BufferedReader(Pipe()))
    for number in range(1, 4):
        assert next(lines) == b"abc\n"
        assert Pipe.asked == number


def test_half_characters_come_out_as_they_went_in():
    (line,) = json_line({"id": "\ud800", "prediction": "é"}).splitlines()
    assert json.loads(line) == {"id": "\ud800", "prediction": "é"}
    assert "é".encode() in line
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_line({"score": float("nan")})


# ------------------------------------------------------------------------------- the output


def written(path, rows):
    return path.read_bytes() == b"".join(map(json_line, rows))


def numbered(first, last):
    return [{"line": line} for line in range(first, last + 1)]


def test_an_output_has_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "out.jsonl"
    output = ResumableOutput(path, JOB, 3)
    assert output.rows_done == 0
    output.write_chunk(numbered(1, 3))
    assert not path.exists()
    assert written(path.with_name("out.jsonl.partial"), numbered(1, 3))
    output.write_chunk(numbered(4, 5))
    output.finish()
    output.close()
    assert written(path, numbered(1, 5))
    assert [each.name for each in path.parent.iterdir()] == ["out.jsonl"]
    with pytest.raises(UserError, match=r"out.jsonl is there already; remove it"):
        ResumableOutput(path, JOB, 3)


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (b"", 0),
        (b'{"line": 1}\n', 0),
        (b'{"line": 1}\n{"line": 2}\n{"line": 3}', 0),
        (b'{"line": 1}\n{"line": 2}\n{"line": 3}\n', 3),
        (b'{"line": 1}\n{"line": 2}\n{"line": 3}\n{"li', 3),
        (b'{"line": 1}\n{"line": 2}\n{"line": 3}\n{"line": 4}\n{"line": 5}\n', 3),
    ],
)
def test_what_is_left_of_a_chunk_is_cut_off(tmp_path, left, kept):
    path = tmp_path / "out.jsonl"
    ResumableOutput(path, JOB, 3).close()
    (tmp_path / "out.jsonl.partial").write_bytes(left)
    output = ResumableOutput(path, JOB, 3)
    assert output.rows_done == kept
    assert list(output.rows()) == numbered(1, kept)
    output.write_chunk(numbered(kept + 1, 7))
    output.finish()
    assert written(path, numbered(1, 7))


def test_another_job_s_output_is_left_alone(tmp_path):
    path = tmp_path / "out.jsonl"
    output = ResumableOutput(path, JOB, 1)
    output.write_chunk(numbered(1, 1))
    with pytest.raises(UserError, match="being written by another process"):
        ResumableOutput(path, JOB, 1)
    output.close()
    for job, rows in ((JOB | {"seed": 1}, 1), (JOB, 2)):
        with pytest.raises(UserError, match="a job with other options"):
            ResumableOutput(path, job, rows)
    about = tmp_path / "out.jsonl.partial.json"
    about.rename(tmp_path / "aside")
    with pytest.raises(UserError, match="a job with other options"):
        ResumableOutput(path, JOB, 1)
    (tmp_path / "aside").rename(about)
    again = ResumableOutput(path, JOB, 1)
    assert again.rows_done == 1
    again.close()


def test_a_job_that_wrote_nothing_binds_nobody(tmp_path):
    ResumableOutput(tmp_path / "out.jsonl", JOB, 1).close()
    output = ResumableOutput(tmp_path / "out.jsonl", {"seed": 5}, 1)
    output.write_chunk(numbered(1, 1))
    output.close()
    again = ResumableOutput(tmp_path / "out.jsonl", {"seed": 5}, 1)
    assert again.rows_done == 1
    again.close()


def test_an_output_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*; choose another --output"):
        ResumableOutput(tmp_path / "file" / "out.jsonl", JOB, 1)
    (tmp_path / "a.partial").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        ResumableOutput(tmp_path / "a", JOB, 1)
    with pytest.raises(UserError, match=r"--output '\.' is the name of no file"):
        ResumableOutput(Path(""), JOB, 1)


def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    output = ResumableOutput(tmp_path / "out.jsonl", JOB, 1)
    output.write_chunk(numbered(1, 1))

    def fail(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(UserError, match=r"No space left on device\); make room"):
            output.write_chunk(numbered(2, 2))
    output.close()
    again = ResumableOutput(tmp_path / "out.jsonl", JOB, 1)
    assert again.rows_done >= 1
    assert next(again.rows()) == numbered(1, 1)[0]
    again.close()


def test_a_disk_without_locks_does(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", fail)
    output = ResumableOutput(tmp_path / "out.jsonl", JOB, 1)
    output.write_chunk(numbered(1, 1))
    output.finish()
    assert (tmp_path / "out.jsonl").is_file()


def test_a_job_goes_on_by_the_weights_that_it_was_begun_with(tmp_path):
    output = ResumableOutput(tmp_path / "out.jsonl", JOB, 1)
    output.check_weights("a")
    output.write_chunk(numbered(1, 1))
    output.close()
    other = ResumableOutput(tmp_path / "out.jsonl", JOB, 1)
    with pytest.raises(UserError, match=r"belongs to a job with other .* model"):
        other.check_weights("b")
    other.close()
    again = ResumableOutput(tmp_path / "out.jsonl", JOB, 1)
    again.check_weights("a")
    assert again.rows_done == 1
    again.close()
