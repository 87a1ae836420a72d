"""What an experiment found: rows of numbers beside the paper's, as JSON and Markdown."""

import dataclasses
import json
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompt_jax.config import TaskOptions
from softprompt_jax.files import write_text
from softprompt_jax.models.families import parameter_count
from softprompt_jax.models.known_shapes import model_config
from softprompt_jax.reproduction.figures import heading, spread_over
from softprompt_jax.reproduction.grid import Cell, Outcome, by_point, scored_split, task_scores
from softprompt_jax.reproduction.presets import Preset
from softprompt_jax.training.setup import tasks_from_options
from softprompt_jax.training.workdir import versions


@dataclasses.dataclass(frozen=True)
class Value:
    """A number, or a mean over seeds.

    Attributes:
        mean: of the seeds that have a value; None where none has.
        deviation: standard deviation over the seeds (over n - 1); None of fewer than two.
        by_seed: the value of each seed (of each run, where `Result.over` tells so), None of one
            that diverged; empty for a number that has no seeds.
        by_task: the mean of each task over the seeds, where the value is a mean over tasks.
    """

    mean: float | None
    deviation: float | None = None
    by_seed: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    by_task: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @staticmethod
    def of(by_seed: Mapping[Any, float | None], **more: Any) -> "Value":
        """The mean over seeds."""
        there = [value for value in by_seed.values() if value is not None]
        return Value(
            statistics.fmean(there) if there else None,
            statistics.stdev(there) if len(there) > 1 else None,
            {str(seed): value for seed, value in by_seed.items()},
            **more,
        )


@dataclasses.dataclass(frozen=True)
class Published:
    """A number of the paper's, or of another source that stands for it.

    Attributes:
        value: in the unit of the row.
        source: where it stands.
        deviation: if it is told.
    """

    value: float
    source: str
    deviation: float | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """A number of ours, what it is of, and the paper's."""

    coordinates: Mapping[str, Any]
    ours: Value
    paper: Published | None = None

    @property
    def difference(self) -> float | None:
        """Ours minus the paper's."""
        if self.paper is None or self.ours.mean is None:
            return None
        return self.ours.mean - self.paper.value


@dataclasses.dataclass(frozen=True)
class Result:
    """What an experiment found.

    Attributes:
        rows: the numbers.
        unit: of them.
        decimals: to print.
        runs: JSON-able, one a run: its coordinates, folder, config, seed, versions and metrics.
        models: JSON-able, by label: the models' names, architecture and number of parameters.
        data: what the numbers were measured on.
        baseline: the score of always giving the commonest label, if the rows are scores that it
            can be told for.
        over: what means and deviations are over; "": the seeds.
        notes: what a reader has to know.
    """

    rows: list[Row]
    unit: str
    decimals: int = 1
    runs: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    models: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    data: str = ""
    baseline: float | None = None
    over: str = ""
    notes: list[str] = dataclasses.field(default_factory=list)

    @staticmethod
    def of_runs(
        cells: Sequence[Cell],
        outcomes: Sequence[Outcome],
        rows: list[Row],
        *,
        notes: Sequence[str] = (),
        shapes: Mapping[str, str] | None = None,
        **more: Any,
    ) -> "Result":
        """What runs found, with the runs, their models and what happened in them.

        Args:
            cells: the runs.
            outcomes: of the cells.
            rows: the numbers.
            notes: what a reader has to know beside it.
            shapes: by label of a size, a model of its shape that is found where the runs' own may
                be gone; None: the runs' own.
            more: other attributes.
        """
        return Result(
            rows,
            runs=[_describe_run(*each) for each in zip(cells, outcomes, strict=True)],
            models=_describe_models(cells, shapes or {}),
            notes=[*notes, *_notes_on(cells, outcomes)],
            **more,
        )


def scores(cells: Sequence[Cell], outcomes: Sequence[Outcome], among: Sequence[str]) -> list[Row]:
    """The mean score of each point, in percent, and its standard deviation over the seeds.

    A seed counts where all its tasks have a score.

    Args:
        cells: of all points.
        outcomes: of the cells.
        among: names of the tasks that the mean is taken over.
    """
    rows = []
    for coordinates, runs in by_point(cells, outcomes):
        by_seed: dict[int, dict[str, float] | None] = {}
        for cell, outcome in runs:
            seed = cell.config.seed
            so_far = by_seed.setdefault(seed, {})
            if outcome.diverged is not None:
                by_seed[seed] = None
            elif so_far is not None:
                so_far |= task_scores(cell.config.task, outcome.metrics)
        means = {
            seed: None if each is None else statistics.fmean(each[name] for name in among)
            for seed, each in by_seed.items()
        }
        whole = [each for each in by_seed.values() if each is not None]
        by_task = {name: statistics.fmean(e[name] for e in whole) for name in among if whole}
        rows.append(Row(coordinates, Value.of(means, by_task=by_task)))
    return rows


def beside(
    rows: Sequence[Row], published: Callable[[Mapping[str, Any]], Published | None]
) -> list[Row]:
    """Rows with the paper's numbers.

    Args:
        rows: ours.
        published: from a row's coordinates to the paper's number, None where it tells none.
    """
    return [dataclasses.replace(row, paper=published(row.coordinates)) for row in rows]


def _describe_run(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    """A run as the JSON of an experiment has it."""
    return {
        "coordinates": dict(cell.coordinates),
        "folder": cell.config.workdir,
        "seed": cell.config.seed,
        "diverged": outcome.diverged,
        **{name: value for name, value in outcome.told.items() if name != "seed"},
        "config": dataclasses.asdict(cell.config),
    }


def _notes_on(cells: Sequence[Cell], outcomes: Sequence[Outcome]) -> list[str]:
    """What happened in runs that a reader has to know."""
    notes = [cell.note for cell in cells if cell.note]
    if any(cell.config.train.loss == "labels" for cell in cells):
        notes.append(
            "T5s of this project are trained by cross-entropy among the labels, each scored whole; "
            "the paper's is over the vocabulary, by which models this small stop at the commonest "
            "label."
        )
    for cell, outcome in zip(cells, outcomes, strict=True):
        if outcome.diverged is not None:
            notes.append(f"{_spelled(cell.coordinates)}, seed {cell.config.seed} diverged.")
    return list(dict.fromkeys(notes))


def _describe_models(cells: Sequence[Cell], shapes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Names, architecture and size of the models of runs, by the label of their size."""
    told: dict[str, dict[str, Any]] = {}
    for cell in cells:
        name = cell.config.model.name
        label = cell.coordinates.get("size", name)
        if label not in told:
            shape = model_config(shapes.get(label, name))
            architecture = type(shape).__name__.removesuffix("Config")
            parameters = parameter_count(shape)
            told[label] = {"names": [], "architecture": architecture, "parameters": parameters}
        if name not in told[label]["names"]:
            told[label]["names"].append(name)
    return told


def describe_data(preset: Preset) -> str:
    """The tasks of a preset and the splits that scores are of, in words."""
    tasks = [tasks_from_options(options)[0] for options in preset.tasks]
    splits = {scored_split(task.splits) for task in tasks}
    if preset.is_the_papers:
        return "SuperGLUE, validation"
    return ", ".join(task.name for task in tasks) + ", " + " and ".join(sorted(splits))


def commonest_label_score(preset: Preset) -> float | None:
    """The score of always giving the commonest label, in percent, as a mean over the tasks.

    None for the paper's tasks, and where one of the tasks has no labels.
    """
    if preset.is_the_papers:
        return None
    scores = [commonest_label_score_of(options) for options in preset.tasks]
    there = [score for score in scores if score is not None]
    return statistics.fmean(there) if len(there) == len(scores) else None


def commonest_label_score_of(options: TaskOptions) -> float | None:
    """As `commonest_label_score`, of one task; None for a task without labels."""
    (task,) = tasks_from_options(options)
    if not task.labels:
        return None
    references = [
        reference
        for example in task.split(scored_split(task.splits))
        for _, reference in task.evaluation_rows(example)
    ]
    ((commonest, _),) = Counter(each.answers[0] for each in references).most_common(1)
    metrics = task.evaluate([commonest] * len(references), references)
    return 100 * task.main_value(metrics)


# --------------------------------------------------------------------------------------- as files


def to_json(facts: Mapping[str, Any], result: Result) -> dict[str, Any]:
    """JSON-able: the facts of the experiment, then all that it found."""
    rows = [
        {
            "coordinates": dict(row.coordinates),
            "ours": dataclasses.asdict(row.ours),
            "paper": None if row.paper is None else dataclasses.asdict(row.paper),
            "difference": row.difference,
        }
        for row in result.rows
    ]
    rest = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name != "rows"
    }
    return {**facts, "versions": versions(), "rows": rows, **rest}


def write_json(path: Path, told: Mapping[str, Any]) -> None:
    """Writes the file whole or not at all."""
    write_text(path, json.dumps(told, indent=1) + "\n")


def as_markdown(told: Mapping[str, Any]) -> str:
    """The table of an experiment, from its JSON, with what is needed to read it."""
    lines = [
        f"## {heading(told)}",
        "",
        f"{_scale(told)} {_what(told)}{_baseline(told)}",
        "",
        f"The paper: {told['finding']}",
        "",
        *_table(told),
        "",
        *(f"- {note}" for note in told["notes"]),
        *([""] if told["notes"] else []),
        f"By `{told['command']}`.",
        "",
    ]
    return "\n".join(lines)


def _what(told: Mapping[str, Any]) -> str:
    data = f" on {told['data']}" if told["data"] else ""
    over = spread_over(told)
    of_seeds = f", mean ± standard deviation of {over}" if over else ""
    return f"{told['unit'][0].upper()}{told['unit'][1:]}{data}{of_seeds}."


def _scale(told: Mapping[str, Any]) -> str:
    if not told["runs"] and told["models"]:
        return "Counted from the models' shapes, at every preset the same."
    if not told["runs"]:
        return f"Preset `{told['preset']}`: counted from the data; no model is run."
    # What ran, which is not all of the preset.
    steps = sorted({run["config"]["train"]["steps"] for run in told["runs"]})
    ran = f"{', '.join(told['models'])}; {' or '.join(f'{each:,}' for each in steps)} steps"
    return f"Preset `{told['preset']}` ({told['about']}): {ran}."


def _baseline(told: Mapping[str, Any]) -> str:
    if told["baseline"] is None:
        return ""
    return f" Always giving the commonest label scores {told['baseline']:.1f}."


def _table(told: Mapping[str, Any]) -> list[str]:
    """Two coordinates and nothing of the paper's: one along each side; else a line a row."""
    rows = told["rows"]
    names = list(dict.fromkeys(name for row in rows for name in row["coordinates"]))
    compared = any(row["paper"] is not None for row in rows)
    decimals = told["decimals"]
    if compared or len(names) != 2:
        head = [*names, "ours", *(["paper", "difference", "source"] if compared else [])]
        body = []
        for row in rows:
            cells = [str(row["coordinates"].get(name, "")) for name in names]
            cells.append(_told(row["ours"]["mean"], row["ours"]["deviation"], decimals))
            if compared:
                paper, difference = row["paper"] or {}, row["difference"]
                cells.append(_told(paper.get("value"), paper.get("deviation"), decimals))
                cells.append("" if difference is None else _number(difference, decimals, "+"))
                cells.append(paper.get("source", ""))
            body.append(cells)
    else:
        across, down = names
        columns = list(dict.fromkeys(row["coordinates"][across] for row in rows))
        head = [down, *map(str, columns)]
        by_place = {tuple(row["coordinates"].values()): row["ours"] for row in rows}
        body = []
        for value in dict.fromkeys(row["coordinates"][down] for row in rows):
            cells = [str(value)]
            for column in columns:
                ours = by_place.get((column, value), {})
                cells.append(_told(ours.get("mean"), ours.get("deviation"), decimals))
            body.append(cells)
    aligned = ["---", *["---:"] * (len(head) - 1)]
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in (head, aligned, *body))
    return ["| " + " | ".join(cells) + " |" for cells in escaped]


def _told(value: float | None, deviation: float | None, decimals: int) -> str:
    if value is None:
        return ""
    spread = "" if deviation is None else f" ± {_number(deviation, decimals)}"
    return _number(value, decimals) + spread


def _number(value: float, decimals: int, sign: str = "") -> str:
    """Counts in full, other numbers rounded."""
    return f"{value:{sign},}" if isinstance(value, int) else f"{value:{sign},.{decimals}f}"


def _spelled(coordinates: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in coordinates.items())
