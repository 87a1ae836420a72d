"""A task made of the user's own JSONL, CSV, TSV, Parquet or text files."""

import dataclasses
import functools
import hashlib
import json
import string
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from softprompt_jax.errors import UserError
from softprompt_jax.tasks.file_formats import Row, read_rows
from softprompt_jax.tasks.label_metrics import BINARY
from softprompt_jax.tasks.metrics import Reference, get_metric
from softprompt_jax.tasks.task import LIKELIHOOD_METRICS, Evaluation, Example, Task

# So many different targets are no labels, however many rows there are: each takes a pass.
MOST_LABELS = 10_000


def file_task(
    name: str,
    *,
    train_file: str | Path,
    validation_file: str | Path | None = None,
    test_file: str | Path | None = None,
    input_column: str = "input",
    target_column: str = "target",
    input_template: str | None = None,
    answer_separator: str | None = None,
    text_column: str | None = None,
    labels: Sequence[str] | None = None,
    evaluation: Evaluation | None = None,
    metrics: Sequence[str] | None = None,
    truncate: Literal["end", "start"] = "end",
) -> Task:
    """A task whose splits are files; all of them are read and checked at once.

    The rows stay in the files: going through a split reads its file again, a few rows at a time.
    `softprompt_jax.tasks.file_formats.read_rows` says how each kind of file is read. White space
    around targets is dropped.

    Args:
        name: what the task is called.
        train_file: .jsonl, .csv, .tsv, .parquet or .txt file of training rows.
        validation_file: rows that choose the best prompt.
        test_file: rows scored once at the end; optional.
        input_column: column that holds the input text.
        target_column: column that holds the target text or label. In JSONL and Parquet it may hold
            a list of accepted answers; the first one that is not empty is trained on.
        input_template: input built from columns, as in "question: {q} context: {c}", in place of
            `input_column`. Text after the last column is kept when long inputs are cut.
        answer_separator: what stands between accepted answers in a target's text, such as "|".
        text_column: column of plain text for language modelling, in place of input and target;
            "text" where a file is .txt, which has one document a line.
        labels: the labels of a classification task, of two the positive one second; None: those
            found in the training rows, sorted. Unless evaluation="score" they are only checked, and
            none are looked for.
        evaluation: "score" for classification (the default), "generate" for free text, "likelihood"
            for the targets' log-likelihood (the default for plain text).
        metrics: names of the metrics; None: accuracy, exact_match or log_likelihood, in the order
            of the evaluations above. `f1` and `multirc_f1a` need `labels`.
        truncate: which end of a too long input is cut.

    Raises:
        UserError: a file is missing or malformed (with its line), a column is missing, a split is
            empty, a row has a label that the training rows or `labels` lack, or options contradict
            each other.
    """
    if validation_file is None:
        raise UserError(
            f"Task {name} has a train_file but no validation_file, which chooses the best prompt; "
            "give one."
        )
    given = {"train": train_file, "validation": validation_file, "test": test_file}
    paths = {split: Path(file) for split, file in given.items() if file is not None}
    if text_column is None and any(path.suffix.lower() == ".txt" for path in paths.values()):
        text_column = "text"
    if text_column is not None:
        evaluation = evaluation or "likelihood"
        _check_plain_text(
            name,
            evaluation,
            input_template=input_template,
            answer_separator=answer_separator,
            labels=labels,
        )
    evaluation = evaluation or "score"
    metrics = _metrics(name, metrics, evaluation)
    if labels is None:
        for metric in BINARY:
            if metric in metrics:
                raise UserError(
                    f"Task {name} has the metric {metric}, for which one of two labels is the "
                    "positive one; name both labels, the positive one second."
                )
    if answer_separator == "":
        raise UserError(f"Task {name} has an empty answer_separator; give one such as '|'.")
    cast = _Cast(
        input_column,
        target_column,
        input_template,
        answer_separator,
        text_column,
        *_parse_template(input_template),
    )
    known = _Labels(name, labels) if evaluation == "score" or labels is not None else None

    def check(training: bool, where: str, row: Row) -> None:
        if known is not None:
            known.check(where, cast.answers(row), training)

    splits: dict[str, FileSplit] = {}
    for split, path in paths.items():
        splits[split] = FileSplit(
            path, cast.columns, cast.list_column, functools.partial(check, split == "train")
        )
        if not len(splits[split]):
            raise UserError(f"The {split} file {path} has no rows; it needs at least one.")
        if known is not None and split == "train":
            known.close()

    return Task(
        name=name,
        load=splits.__getitem__,
        pairs=cast.pairs,
        questions=None if evaluation == "likelihood" else cast.questions,
        labels=() if known is None else known.labels,
        metrics=metrics,
        evaluation=evaluation,
        truncate=truncate,
        input_suffix=cast.suffix,
        splits=tuple(splits),
        prefix=None if text_column is None else "",
        fingerprint=lambda split: _digest([splits[split].fingerprint, dataclasses.asdict(cast)]),
    )


class FileSplit:
    """The rows of a file, read from it again each time they are gone through.

    Making one reads the whole file once.

    Args:
        path: the file.
        columns: see `read_rows`.
        list_column: likewise.
        check: is shown where each row stands, and the row.

    Raises:
        UserError: as `read_rows`; later, the file is not what it was.
    """

    def __init__(
        self,
        path: Path,
        columns: Sequence[str],
        list_column: str | None,
        check: Callable[[str, Row], None],
    ):
        self.path = path
        self._read = functools.partial(read_rows, path, columns, list_column)
        self._state = self._stat()
        self._length = 0
        for where, row in self._read():
            check(where, row)
            self._length += 1

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Example]:
        self._check_unchanged()
        for _, row in self._read():
            yield row

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of the file's kind and bytes."""
        self._check_unchanged()
        with self.path.open("rb") as file:
            return self.path.suffix.lower() + hashlib.file_digest(file, "sha256").hexdigest()

    def _stat(self) -> tuple[int, int] | None:
        try:
            stat = self.path.stat()
        except OSError:
            return None
        return stat.st_size, stat.st_mtime_ns

    def _check_unchanged(self) -> None:
        if self._stat() != self._state:
            raise UserError(
                f"The file {self.path} has changed since it was checked; make the task again."
            )


@dataclasses.dataclass(frozen=True)
class _Cast:
    """What becomes of a row: the options that change a task's pairs."""

    input_column: str
    target_column: str
    input_template: str | None
    answer_separator: str | None
    text_column: str | None
    fields: tuple[str, ...]
    suffix: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that each row must have."""
        if self.text_column is not None:
            return (self.text_column,)
        return tuple(dict.fromkeys((*(self.fields or [self.input_column]), self.target_column)))

    @property
    def list_column(self) -> str | None:
        """The column that may hold a list: the target's, unless the input shows it too."""
        shown = self.fields or [self.input_column]
        plain = self.text_column is not None or self.target_column in shown
        return None if plain else self.target_column

    def pairs(self, example: Example) -> list[tuple[str, str]]:
        if self.text_column is not None:
            from softprompt_jax.tasks.language_modelling import text_pairs_of

            return text_pairs_of(_text(example[self.text_column]))
        return [(self._input(example), self.answers(example)[0])]

    def questions(self, example: Example) -> list[tuple[str, Reference]]:
        return [(self._input(example), Reference(self.answers(example)))]

    def answers(self, example: Example) -> tuple[str, ...]:
        """The accepted answers, each once, none empty unless there is no other."""
        value = example[self.target_column]
        if isinstance(value, list):
            texts = [_text(each) for each in value]
        elif self.answer_separator is not None:
            texts = _text(value).split(self.answer_separator)
        else:
            texts = [_text(value)]
        return tuple(dict.fromkeys(filter(None, map(str.strip, texts)))) or ("",)

    def _input(self, example: Example) -> str:
        if self.input_template is None:
            return _text(example[self.input_column])
        return self.input_template.format(**{field: _text(example[field]) for field in self.fields})


class _Labels:
    """A task's labels: those given, or those that its training rows turn out to have."""

    def __init__(self, name: str, given: Sequence[str] | None):
        self._name = name
        self._find = given is None
        self._rows = 0
        self.labels: tuple[str, ...] = ()
        self._known: set[str] = set()
        if given is None:
            return
        if isinstance(given, str) or not all(isinstance(label, str) for label in given):
            raise UserError(f"Task {name} has labels={given!r}; give a list of strings.")
        self.labels = tuple(label.strip() for label in given)
        self._known = set(self.labels)
        if len(self._known) < len(self.labels) or "" in self._known:
            raise UserError(f"Task {name} has empty or repeated labels in {list(given)}; mend it.")

    def check(self, where: str, answers: Sequence[str], training: bool) -> None:
        """Refuses what is no label; learns what is one from a training row."""
        if not answers[0]:
            raise UserError(f"{where} has an empty label; fill it in or remove the row.")
        if training and self._find:
            self._rows += 1
            self._known.update(answers)
            if len(self._known) > MOST_LABELS:
                raise self._no_labels(f"more than {MOST_LABELS}", f"the first {self._rows}")
            return
        for answer in answers:
            if answer not in self._known:
                source = "the training rows have only" if self._find else "the labels are"
                shown = ", ".join(self.labels[:20]) + (", …" if len(self.labels) > 20 else "")
                raise UserError(
                    f"{where} has the label {answer!r}, but {source} {shown}; correct it or add "
                    "the label."
                )

    def close(self) -> None:
        """Ends the learning."""
        if not self._find:
            return
        self.labels = tuple(sorted(self._known))
        # Free text scored as if it were labels would cost one pass per distinct training row.
        if len(self.labels) > 50 and 2 * len(self.labels) > self._rows:
            raise self._no_labels(str(len(self.labels)), str(self._rows))

    def _no_labels(self, different: str, rows: str) -> UserError:
        return UserError(
            f"Task {self._name} has {different} different targets in {rows} training rows, so they "
            "are no labels; use evaluation='generate' or give labels."
        )


def _check_plain_text(name: str, evaluation: str, **options: Any) -> None:
    for option, value in options.items():
        if value is not None:
            raise UserError(
                f"Task {name} models plain text (text_column or a .txt file), which takes no "
                f"{option}; remove it."
            )
    if evaluation != "likelihood":
        raise UserError(
            f"Task {name} models plain text (text_column or a .txt file), which is evaluated by "
            f"'likelihood' and not by {evaluation!r}; remove the evaluation."
        )


def _metrics(name: str, given: Sequence[str] | None, evaluation: Evaluation) -> tuple[str, ...]:
    if isinstance(given, str):
        raise UserError(f"Task {name} has metrics={given!r}; give a list of names.")
    if evaluation == "likelihood":
        return LIKELIHOOD_METRICS if given is None else tuple(given)
    for metric in given or ():
        get_metric(metric)  # here, and not only after the files have been read
    if given is not None:
        return tuple(given)
    return ("accuracy",) if evaluation == "score" else ("exact_match",)


def _parse_template(template: str | None) -> tuple[tuple[str, ...], str]:
    """The columns that a template names, and the literal text after the last of them."""
    if template is None:
        return (), ""
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
    return tuple(fields), suffix


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _text(value: Any) -> str:
    # Numbers and booleans as Python writes them to JSON: 1 -> "1", 1.50 -> "1.5", true -> "true".
    return value if isinstance(value, str) else json.dumps(value)
