"""Files of rows to answer: read line by line, answered in chunks, written so that nothing is lost.

A row is a JSON object: `{"text": "…", "prompt": "boolq", "choices": ["no", "yes"], "id": 7}`.
`prompt` may be left out where there is only one, `choices` where the prompt's labels are meant or
text is to be generated, and `id` always; null counts as left out. What cannot be answered becomes
an error row.
"""

import contextlib
import dataclasses
import fcntl
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from softprompt_jax.errors import UserError
from softprompt_jax.files import write_text

LONGEST_LINE = 2**20
"""Bytes of a line at most, so that memory does not grow with a file that has no line ends."""

MOST_CHOICES = 1000
"""Choices of a row at most, since memory grows with them; a prompt's own labels may be more."""

FIELDS = ("text", "prompt", "choices", "id")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row to answer.

    Attributes:
        line: its line in the file, from 1.
        text: the input, as the task words it.
        prompt: name of the prompt that answers.
        choices: what to choose from; None: generate text.
        named: `{"id": …}` where the row has one, for the answer to carry.
    """

    line: int
    text: str
    prompt: str
    choices: tuple[str, ...] | None
    named: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be answered, and why in one sentence."""

    line: int
    error: str
    named: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The error row."""
        return {"line": self.line, **self.named, "error": self.error}


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of a file as they come, each cut to one byte more than `LONGEST_LINE`."""
    while line := file.readline(LONGEST_LINE + 1):
        rest = line
        while not rest.endswith(b"\n") and (rest := file.readline(LONGEST_LINE + 1)):
            pass
        yield line


def read_rows(
    lines: Iterable[bytes], labels: Mapping[str, Sequence[str]]
) -> Iterator[Row | BadRow]:
    """The rows of JSON lines; empty lines are none.

    Args:
        lines: as `read_lines` gives them.
        labels: of each prompt by name, empty for one that generates text.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield _parse(number, line, labels)


def _parse(number: int, line: bytes, labels: Mapping[str, Sequence[str]]) -> Row | BadRow:
    if len(line) > LONGEST_LINE:
        return BadRow(number, f"The line has more than {LONGEST_LINE} bytes.")
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        row = json.loads(text, parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return BadRow(number, f"The line is not UTF-8 text (byte {error.start}).")
    except (ValueError, RecursionError) as error:  # ValueError: a number of thousands of digits
        reason = getattr(error, "msg", "nested too deeply, or a number too long")
        return BadRow(number, f"The line is not valid JSON ({reason}).")
    if not isinstance(row, dict):
        return BadRow(number, "The line is not a JSON object.")
    identity = row.get("id")
    if not isinstance(identity, str | int | float | None) or identity in (math.inf, -math.inf):
        return BadRow(number, "The row's id is neither a text nor a number.")
    named = {"id": identity} if "id" in row else {}

    def bad(error: str) -> BadRow:
        return BadRow(number, error, named)

    unknown = sorted(set(row) - set(FIELDS))
    if unknown:
        return bad(f"The row has the field {_shown(unknown[0])}; it may have {', '.join(FIELDS)}.")
    text = row.get("text")
    if not isinstance(text, str):
        return bad("The row has no text; give it as a string in the field 'text'.")
    if not text.strip():
        return bad("The row's text is empty.")
    name = row.get("prompt")
    if name is None and len(labels) == 1:
        name = next(iter(labels))
    if name is None:
        return bad(f"The row names no prompt; there are {', '.join(labels)}.")
    if not isinstance(name, str) or name not in labels:
        return bad(f"There is no prompt {_shown(name)}; there are {', '.join(labels)}.")
    choices = row.get("choices")
    if choices is None:
        choices = list(labels[name]) or None
    elif not isinstance(choices, list) or not all(isinstance(each, str) for each in choices):
        return bad("The row's choices are no list of strings.")
    elif len(choices) < 2 or len(set(choices)) < len(choices) or not all(map(str.strip, choices)):
        return bad("The row's choices must be at least two different texts.")
    elif len(choices) > MOST_CHOICES:
        return bad(f"The row has {len(choices)} choices; at most {MOST_CHOICES} are scored.")
    if any("\ud800" <= c <= "\udfff" for each in (text, *(choices or ())) for c in each):
        return bad("The row has half a character (a lone surrogate).")
    return Row(number, text, name, None if choices is None else tuple(choices), named)


def _refuse_constant(name: str) -> NoReturn:
    # Python reads NaN and Infinity, which are no JSON and would come out again in the answer.
    raise json.JSONDecodeError(f"{name} is no number", name, 0)


def _shown(value: Any) -> str:
    """A value of the row in an error, whatever its length."""
    told = repr(value)
    return told if len(told) <= 60 else told[:57] + "…"


class ResumableOutput:
    """An output file that grows in whole chunks and has its name only when it is whole.

    Until then it is `NAME.partial`, beside `NAME.partial.json`, which says what job it belongs to.
    The same job goes on after the last whole chunk; so its chunks, and with them its batches, are
    those of a job that was never stopped, to the bit.

    Args:
        path: of the output file.
        job: JSON-able facts that decide its content.
        chunk_rows: lines a chunk, except the last.

    Attributes:
        rows_done: lines that are there already.

    Raises:
        UserError: the output is there already or cannot be written, or what is begun belongs to
            another job or is being written by another process.
    """

    def __init__(self, path: Path, job: Mapping[str, Any], chunk_rows: int):
        if not path.name:
            raise UserError(f"--output {str(path)!r} is the name of no file; give one.")
        self.path = path
        self._partial = path.with_name(path.name + ".partial")
        self._about = path.with_name(path.name + ".partial.json")
        self._job = dict(job, chunk_rows=chunk_rows)
        self._weights: str | None = None
        self._file: Any = None
        try:
            if path.exists():
                raise UserError(f"{path} is there already; remove it or choose another --output.")
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._partial.open("a+b")
            self._lock()
            if os.fstat(self._file.fileno()).st_size == 0:
                self._tell_job()
            else:
                begun = self._begun()
                self._weights = begun.pop("weights", None)
                if begun != json.loads(json.dumps(self._job)):
                    self.close()
                    raise self._of_another_job()
        except OSError as error:
            self.close()
            raise UserError(
                f"The output {path} cannot be written ({error.strerror}); choose another --output."
            ) from None
        self.rows_done = self._keep_whole_chunks(chunk_rows)

    def check_weights(self, fingerprint: str) -> None:
        """Refuses to go on by other weights than those that the rows so far are of.

        Args:
            fingerprint: of the model, now that it is loaded.

        Raises:
            UserError: they are others.
        """
        if self._weights is None:
            self._weights = fingerprint
            with self._writing():
                self._tell_job()
        elif self._weights != fingerprint:
            raise self._of_another_job()

    def _tell_job(self) -> None:
        told = dict(self._job) if self._weights is None else {**self._job, "weights": self._weights}
        write_text(self._about, json.dumps(told, sort_keys=True, indent=2) + "\n")

    def _begun(self) -> dict[str, Any]:
        """The job that the file belongs to; empty where nobody can tell."""
        try:
            told = json.loads(self._about.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    def _of_another_job(self) -> UserError:
        return UserError(
            f"{self._partial} belongs to a job with other options, rows, model or prompts; "
            "finish that one, remove it, or choose another --output."
        )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Tells of a full disk in one sentence; what is whole stays."""
        try:
            yield
        except OSError as error:
            raise UserError(
                f"The answers cannot be written to {self._partial} ({error.strerror}); make room, "
                "and the same command goes on."
            ) from None

    def _lock(self) -> None:
        """Keeps a second process away for as long as this one lives."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            raise UserError(
                f"{self._partial} is being written by another process; wait for it or stop it."
            ) from None
        except OSError:
            pass  # some shared disks have no locks

    def _keep_whole_chunks(self, chunk_rows: int) -> int:
        """Cuts off what a killed job left of a chunk; the number of rows that stay."""
        self._file.seek(0)
        kept_rows = kept_bytes = position = 0
        for row, line in enumerate(self._file, start=1):
            position += len(line)
            if line.endswith(b"\n") and row % chunk_rows == 0:
                kept_rows, kept_bytes = row, position
        self._file.truncate(kept_bytes)
        return kept_rows

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows that are there."""
        self._file.seek(0)
        for line in self._file:
            yield json.loads(line)

    def write_chunk(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Appends a chunk, safe on disk when this returns."""
        with self._writing():
            self._file.write(b"".join(json_line(row) for row in rows))
            self._file.flush()
            os.fsync(self._file.fileno())

    def finish(self) -> None:
        """Gives the file its name."""
        with self._writing():
            os.replace(self._partial, self.path)
            self._about.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leaves the file as it is, to be gone on with."""
        with contextlib.suppress(OSError):  # what could not be written is tried once more
            if self._file is not None:
                self._file.close()


def json_line(row: Mapping[str, Any]) -> bytes:
    """A row as a line of UTF-8 JSON."""
    line = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return line.encode("utf-8", "backslashreplace") + b"\n"
