"""Table 3: five prompts of one frozen model, alone and as an ensemble."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softprompt_jax.evaluate import evaluate
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.prompts.soft_prompt import TENSOR_FILE
from softprompt_jax.reproduction import figures
from softprompt_jax.reproduction.answers import file_digest, job_of, open_for
from softprompt_jax.reproduction.experiment import Context, Experiment, of_size
from softprompt_jax.reproduction.grid import Cell, Outcome, Point, cached_json
from softprompt_jax.reproduction.presets import Preset
from softprompt_jax.reproduction.published import TABLE_3, TABLE_3_AVERAGE
from softprompt_jax.reproduction.results import (
    Published,
    Result,
    Row,
    Value,
    describe_data,
)

PROMPTS = 5

METRIC, ANSWER = "task and metric", "answer"
MEAN, BEST, VOTE = "mean of prompts", "best prompt", "majority vote"


def points(preset: Preset) -> list[Point]:
    """The largest size, with as many seeds as there are prompts."""
    size = preset.sizes[-1]
    return [Point({"size": size.label}, of_size(size, {}), seeds=tuple(range(PROMPTS)))]


def trained_prompts(
    cells: list[Cell], outcomes: list[Outcome]
) -> dict[str, tuple[Cell, dict[str, Path]]]:
    """For each task a cell and the folders of its prompts by seed, without runs that diverged."""
    found: dict[str, tuple[Cell, dict[str, Path]]] = {}
    for cell, outcome in zip(cells, outcomes, strict=True):
        if outcome.diverged is None:
            _, folders = found.setdefault(cell.config.task.name, (cell, {}))
            folders[f"seed {cell.config.seed}"] = Path(cell.config.workdir) / "best"
    return found


def compute(context: Context) -> Result:
    """Trains the prompts of each task, and has them answer together."""
    preset = context.preset
    cells, outcomes = context.run(points(preset))
    rows, averages, notes = [], {MEAN: [], BEST: [], VOTE: []}, []
    for name, (cell, folders) in trained_prompts(cells, outcomes).items():
        if len(folders) < 2:
            notes.append(f"{name} has fewer than two prompts, and no ensemble.")
            continue
        digests = [file_digest(folder / TENSOR_FILE) for folder in folders.values()]
        path = context.folder / preset.name / "ensembles" / f"{name.replace('/', '_')}.json"
        report = cached_json(
            path, [cell.config.model.name, digests], lambda c=cell, f=folders: _ask(c, f)
        )
        told = {
            MEAN: report["mean"],
            BEST: report["prompts"][report["best"]],
            VOTE: report["ensemble"]["majority_vote"],
        }
        spread = report["standard_deviation"]
        for metric in report["metrics"]:
            for i, (answer, metrics) in enumerate(told.items()):
                deviation = 100 * spread[metric] if answer == MEAN else None
                paper = TABLE_3.get((name, metric)) if preset.is_the_papers else None
                rows.append(
                    Row(
                        {METRIC: f"{name}, {metric}", ANSWER: answer},
                        Value(100 * metrics[metric], deviation),
                        None if paper is None else Published(paper[i], "table 3"),
                    )
                )
        for answer, metrics in told.items():
            values = [metrics[metric] for metric in report["metrics"]]
            averages[answer].append(100 * sum(values) / len(values))
    if len(preset.tasks) > 1:
        rows += _averages(averages, preset)
    notes += [
        "Of labels with equal votes the one of higher summed log-likelihood wins, of texts "
        "the first in the order of seeds; the paper names no rule."
    ]
    return Result.of_runs(
        cells,
        outcomes,
        rows,
        unit="score (%)",
        data=describe_data(preset),
        notes=[
            f"{PROMPTS} prompts of {preset.sizes[-1].label}; ± is the standard deviation of the "
            "prompts.",
            *notes,
        ],
    )


def _ask(cell: Cell, folders: Mapping[str, Path]) -> dict[str, Any]:
    prompts = {seed: SoftPrompt.load(folder) for seed, folder in folders.items()}
    opened = open_for(cell.config, prompts)
    job = job_of(cell.config.task, opened)
    return {**evaluate(job, opened, ensemble=True), "metrics": list(job.task.metrics)}


def _averages(averages: Mapping[str, list[float]], preset: Preset) -> list[Row]:
    return [
        Row(
            {METRIC: "mean of tasks", ANSWER: answer},
            Value(sum(values) / len(values)),
            Published(paper, "table 3") if preset.is_the_papers else None,
        )
        for (answer, values), paper in zip(averages.items(), TABLE_3_AVERAGE, strict=True)
        if values
    ]


EXPERIMENT = Experiment(
    name="tab3",
    title="Prompt ensembles",
    item="table 3",
    finding="A majority vote of five prompts beats their mean on every task, and is at least as "
    "good as the best of them.",
    compute=compute,
    draw=figures.grouped(METRIC, ANSWER),
)
