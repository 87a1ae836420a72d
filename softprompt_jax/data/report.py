"""What is known of a run's data before it trains: for people as text, for programs as a dict."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any, NamedTuple

import numpy as np

from softprompt_jax.config import RunConfig
from softprompt_jax.data.batches import padding_share
from softprompt_jax.data.preparation import RunData
from softprompt_jax.data.splits import Split
from softprompt_jax.data.tokenization import TokenizedExamples
from softprompt_jax.tasks import Task

_SHOWN_LABELS = 8


class Lengths(NamedTuple):
    """Tokens of a split's rows.

    Attributes:
        min: of the shortest row.
        median: half of the rows have at most so many.
        p95: 95 % of the rows have at most so many.
        max: of the longest row.
    """

    min: int
    median: int
    p95: int
    max: int


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """What is known of one split.

    Attributes:
        examples: number of rows.
        label_counts: rows of each label, in the task's order; empty for free text.
        input_lengths: tokens of the inputs as the model reads them, after the cut.
        target_lengths: likewise of the targets, with their end of sequence.
        truncated_inputs: number of inputs that were cut.
        truncated_targets: number of targets that were cut.
    """

    examples: int
    label_counts: dict[str, int]
    input_lengths: Lengths
    target_lengths: Lengths
    truncated_inputs: int
    truncated_targets: int


def describe_split(
    examples: TokenizedExamples, label_counts: Mapping[str, int] | None = None
) -> SplitReport:
    """The report of a split.

    Args:
        examples: its tokens.
        label_counts: rows of each label; None for free text.
    """
    return SplitReport(
        examples=len(examples),
        label_counts=dict(label_counts or {}),
        input_lengths=_lengths(examples.input_lengths),
        target_lengths=_lengths(examples.target_lengths),
        truncated_inputs=examples.truncated_inputs,
        truncated_targets=examples.truncated_targets,
    )


def duplicates(splits: Mapping[str, TokenizedExamples]) -> dict[tuple[str, str], int]:
    """For each pair (a, b) of splits, how many of b's rows have an input that is also one of a's.

    Inputs count as they are after the cut, token by token, as the model reads them. Rows are
    compared by 64-bit hashes: two splits of a million rows are told apart wrongly with a chance of
    1 in 10 million.
    """
    hashes = {name: _row_hashes(examples) for name, examples in splits.items()}
    return {(a, b): int(np.isin(hashes[b], hashes[a]).sum()) for a, b in combinations(splits, 2)}


def report_lines(
    name: str,
    splits: Mapping[str, SplitReport],
    duplicated: Mapping[tuple[str, str], int] | None = None,
) -> list[str]:
    """The splits of a task as a table, its label shares, and warnings.

    Args:
        name: of the task.
        splits: the report of each split by name.
        duplicated: as `duplicates` gives it; None: not counted.
    """
    rows = [(name, "examples", *("min", "median", "95 %", "max", "cut") * 2)]
    for split, report in splits.items():
        rows.append(
            (
                split,
                f"{report.examples:,}",
                *map(str, report.input_lengths),
                _share(report.truncated_inputs, report.examples),
                *map(str, report.target_lengths),
                _share(report.truncated_targets, report.examples),
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    # Above the columns of either kind stands what they are.
    inputs, targets = sum(widths[:2]) + 4, sum(widths[:7]) + 16
    heading = f"{' ' * inputs}input tokens"
    lines = [f"{heading:<{targets}}target tokens"]
    lines += ["  ".join(_aligned(row, widths)).rstrip() for row in rows]
    for split, report in splits.items():
        if report.label_counts:
            lines.append(f"{split} labels: {_label_shares(report)}")
    return lines + list(_warnings(splits, duplicated or {}))


def shape_lines(
    shapes: Sequence[tuple[int, int]],
    batch_size: int,
    padding: float,
    evaluation_shapes: Sequence[tuple[int, int]] = (),
) -> list[str]:
    """What will be compiled.

    Args:
        shapes: (input, target) tokens of training batches.
        batch_size: rows of a training batch.
        padding: share of its tokens that is padding, in [0, 1).
        evaluation_shapes: as `shapes`, for evaluation.
    """
    lines = [
        f"Training compiles {_number_of(shapes, 'shape')} (input + target tokens, batches of "
        f"{batch_size}): {_shape_list(shapes)}; {100 * padding:.1f} % of the tokens are padding."
    ]
    if evaluation_shapes:
        lines.append(
            f"Evaluation compiles {_number_of(evaluation_shapes, 'shape')}: "
            f"{_shape_list(evaluation_shapes)}."
        )
    return lines


def describe_run(
    config: RunConfig, tasks: Sequence[Task], transfer: Sequence[Task], data: RunData
) -> str:
    """The report of all that a run reads, for people.

    Args:
        config: the run.
        tasks: that it trains on.
        transfer: that it evaluates on at its end.
        data: their tokens.
    """
    blocks = []
    for task, splits in zip(tasks, data.splits, strict=True):
        blocks.append(report_lines(task.name, _reports(splits), _duplicated(splits)))
    for task, split in zip(transfer, data.transfer, strict=True):
        reports = _reports({task.splits[-1]: split})
        blocks.append(report_lines(f"{task.name} (transfer)", reports))
    blocks.append(shape_lines(**_shapes(config, data)))
    return "\n\n".join("\n".join(block) for block in blocks)


def run_as_dict(
    config: RunConfig, tasks: Sequence[Task], transfer: Sequence[Task], data: RunData
) -> dict[str, Any]:
    """The report of `describe_run` as JSON's types.

    Args:
        config: the run.
        tasks: that it trains on.
        transfer: that it evaluates on at its end.
        data: their tokens.

    Returns:
        `tasks`: by name, `splits` (by name, the fields of `SplitReport`, lengths as dicts) and
        `duplicates` (a list of {`in`, `of`, `rows`}: so many rows of the one split occur in the
        other); `transfer`: by name, `splits` only; and the arguments of `shape_lines`.
    """
    return {
        "tasks": {
            task.name: {
                "splits": _as_dicts(_reports(splits)),
                "duplicates": [
                    {"in": a, "of": b, "rows": count}
                    for (a, b), count in _duplicated(splits).items()
                ],
            }
            for task, splits in zip(tasks, data.splits, strict=True)
        },
        "transfer": {
            task.name: {"splits": _as_dicts(_reports({task.splits[-1]: split}))}
            for task, split in zip(transfer, data.transfer, strict=True)
        },
        **_shapes(config, data),
    }


def _lengths(lengths: np.ndarray) -> Lengths:
    # The length of a row, not a mean of two rows' lengths.
    quantiles = np.quantile(lengths, [0, 0.5, 0.95, 1], method="inverted_cdf")
    return Lengths(*map(int, quantiles))


def _row_hashes(examples: TokenizedExamples) -> np.ndarray:
    """A 64-bit hash of each row's input, int64 [n]; it means something in this process only."""
    tokens, offsets = examples.inputs, examples.input_offsets.tolist()
    hashes = (hash(tokens[a:b].tobytes()) for a, b in pairwise(offsets))
    return np.fromiter(hashes, np.int64, count=len(examples))


def _reports(splits: Mapping[str, Split]) -> dict[str, SplitReport]:
    return {
        name: describe_split(split.examples, split.label_counts) for name, split in splits.items()
    }


def _duplicated(splits: Mapping[str, Split]) -> dict[tuple[str, str], int]:
    return duplicates({name: split.examples for name, split in splits.items()})


def _shapes(config: RunConfig, data: RunData) -> dict[str, Any]:
    size = config.train.batch_size
    return {
        "shapes": [list(shape) for shape in data.shapes],
        "batch_size": size,
        "padding": padding_share(data.examples, data.shapes, size, config.seed, data.mixing),
        "evaluation_shapes": [list(shape) for shape in data.evaluation_shapes],
    }


def _as_dicts(reports: Mapping[str, SplitReport]) -> dict[str, Any]:
    return {
        name: dataclasses.asdict(report)
        | {
            "input_lengths": report.input_lengths._asdict(),
            "target_lengths": report.target_lengths._asdict(),
        }
        for name, report in reports.items()
    }


def _warnings(
    splits: Mapping[str, SplitReport], duplicated: Mapping[tuple[str, str], int]
) -> Iterator[str]:
    for (a, b), count in duplicated.items():
        if count:
            of = splits[b].examples
            yield (
                f"warning: {count:,} of {of:,} {b} inputs also occur in {a}, so scores on {b} may "
                "be better than on new examples."
            )
    train = splits.get("train")
    if train is not None:
        missing = [label for label, count in train.label_counts.items() if not count]
        if missing:
            yield f"warning: no train example has the label {_listed(list(map(repr, missing)))}."


def _label_shares(report: SplitReport) -> str:
    counts = dict(report.label_counts)
    if len(counts) > _SHOWN_LABELS:
        counts = dict(sorted(counts.items(), key=lambda item: -item[1]))
    shares = [
        f"{label} {_share(count, report.examples)} ({count:,})" for label, count in counts.items()
    ]
    outside = report.examples - sum(counts.values())
    if outside:
        shares.insert(0, f"none of the labels {_share(outside, report.examples)} ({outside:,})")
    return _listed(shares)


def _listed(items: Sequence[str]) -> str:
    shown = ", ".join(items[:_SHOWN_LABELS])
    more = len(items) - _SHOWN_LABELS
    return f"{shown} and {more:,} more" if more > 0 else shown


def _share(count: int, of: int) -> str:
    if not 0 < count < of:
        return "100 %" if count else "0 %"
    # Neither 0.0 nor 100.0: some, but not all.
    return f"{min(max(100 * count / of, 0.1), 99.9):.1f} %"


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = zip(row, widths, strict=True)
    cells = [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]
    cells[7] = f"  {cells[7]}"  # a wider gap before the targets' columns
    return cells


def _number_of(things: Sequence[Any], name: str) -> str:
    return f"{len(things)} {name}" + ("s" if len(things) != 1 else "")


def _shape_list(shapes: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{inputs} + {targets}" for inputs, targets in shapes)
