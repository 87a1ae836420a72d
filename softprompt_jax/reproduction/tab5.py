"""Table 5: how long a prompt trains until it is within 1 % of the final mean."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompt_jax.reproduction import figures
from softprompt_jax.reproduction.experiment import Context, Experiment, of_size
from softprompt_jax.reproduction.fig3a import AXIS
from softprompt_jax.reproduction.grid import Cell, Point, by_point
from softprompt_jax.reproduction.presets import Preset
from softprompt_jax.reproduction.published import TABLE_5
from softprompt_jax.reproduction.results import (
    Published,
    Result,
    Row,
    Value,
)
from softprompt_jax.training.setup import tasks_from_options

LENGTHS = (1, 20, 50, 100)

WITHIN = 0.01

MEASURE, STEPS, SECONDS = "measure", "steps", "seconds"


def points(preset: Preset) -> list[Point]:
    """Every size with every length, on the first task only (the paper's is BoolQ)."""
    return [
        Point(
            {"size": size.label, AXIS: length},
            of_size(size, {"prompt.length": length}),
            tasks=preset.tasks[:1],
        )
        for size in preset.sizes
        for length in LENGTHS
    ]


def compute(context: Context) -> Result:
    """Reads the validation scores of every run along its steps."""
    preset = context.preset
    cells, outcomes = context.run(points(preset))
    rows, never = [], 0
    for coordinates, runs in by_point(cells, outcomes):
        done = [(cell, outcome) for cell, outcome in runs if outcome.diverged is None]
        curves = {cell.config.seed: validation_curve(cell) for cell, _ in done}
        steps = steps_to_mean(curves)
        never += sum(step is None for step in steps.values())
        seconds: dict[int, float | None] = {}
        for cell, outcome in done:
            step, rate = steps[cell.config.seed], outcome.told["examples_per_second"]
            if step is None or rate is None:
                seconds[cell.config.seed] = None
            else:
                seconds[cell.config.seed] = step * cell.config.train.batch_size / rate
        at = (coordinates["size"], coordinates[AXIS])
        printed = TABLE_5.get(at) if preset.is_the_papers else None
        paper = None
        if printed is not None:
            paper = Published(printed[0], "table 5, 4 or 16 TPU chips", printed[1])
        rows.append(Row({**coordinates, MEASURE: STEPS}, Value.of(steps)))
        rows.append(Row({**coordinates, MEASURE: SECONDS}, Value.of(seconds), paper))
    every = preset.recipe.train.evaluate_every
    return Result.of_runs(
        cells,
        outcomes,
        rows,
        unit="steps, and seconds of training them on this machine",
        decimals=0,
        data=f"{preset.tasks[0].name}, validation",
        notes=[
            "The first evaluation that is within 1 % of the mean of the seeds' best ones; runs are "
            f"evaluated every {every} steps. Seconds are those steps at the run's own steady "
            "speed, without compiling and evaluating.",
            *([f"{never} runs never came so near and are not in the means."] if never else []),
        ],
    )


def validation_curve(cell: Cell) -> dict[int, float]:
    """The score of a run's task at each evaluation, by step."""
    (task,) = tasks_from_options(cell.config.task)
    curve = {}
    text = (Path(cell.config.workdir) / "metrics.jsonl").read_text(encoding="utf-8")
    for line in text.splitlines():
        told = json.loads(line)
        if all(f"validation/{metric}" in told for metric in task.metrics):
            values = {metric: told[f"validation/{metric}"] for metric in task.metrics}
            curve[told["step"]] = task.main_value(values)
    return curve


def steps_to_mean(curves: Mapping[int, Mapping[int, float]]) -> dict[int, int | None]:
    """For each seed the first step within 1 % of the mean of all seeds' best; None: never."""
    if not curves:
        return {}
    goal = (1 - WITHIN) * statistics.fmean(max(curve.values()) for curve in curves.values())
    return {
        seed: next((step for step, value in sorted(curve.items()) if value >= goal), None)
        for seed, curve in curves.items()
    }


def draw(figure: Any, told: figures.Told) -> None:
    """Steps only: seconds are the machine's."""
    steps: Sequence[Any] = [row for row in told["rows"] if row["coordinates"][MEASURE] == STEPS]
    figures.by_size(AXIS)(figure, {**told, "rows": steps, "unit": "steps"})


EXPERIMENT = Experiment(
    name="tab5",
    title="Time to within 1 % of the mean",
    item="table 5",
    finding="Longer prompts and larger models take longer: 3 minutes at Large with one token, 4 "
    "hours at XXL with 100.",
    compute=compute,
    draw=draw,
)
