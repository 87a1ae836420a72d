"""Not in the paper: other parameterisations of a prompt, each after as many steps of its model."""

import dataclasses
from typing import Any

from softprompt_jax.reproduction import figures
from softprompt_jax.reproduction.experiment import Context, Experiment, of_size, score_unit
from softprompt_jax.reproduction.grid import Point, by_point
from softprompt_jax.reproduction.presets import Preset
from softprompt_jax.reproduction.results import (
    Result,
    Row,
    Value,
    commonest_label_score,
    describe_data,
    scores,
)

KINDS = ("plain", "residual_mlp", "mlp", "lstm", "dept", "prefix")

AXIS = "parameterisation"

MEASURE, SCORE, SPEED, STORED = "measure", "score (%)", "training examples/s", "stored kB"


def points(preset: Preset) -> list[Point]:
    """Every parameterisation, on the models beside the family, or on its largest."""
    return [
        Point({"size": size.label, AXIS: kind}, of_size(size, {"prompt.parameterization": kind}))
        for size in preset.others or preset.sizes[-1:]
        for kind in KINDS
    ]


def compute(context: Context) -> Result:
    """Reads scores, speeds and what is kept of each run."""
    preset = context.preset
    if not preset.is_the_papers:
        # One task: kinds are told apart by seeds, and each more task costs the hours again.
        preset = dataclasses.replace(preset, tasks=preset.tasks[:1])
        context = dataclasses.replace(context, preset=preset)
    cells, outcomes = context.run(points(preset))
    first = cells[0].config.train
    rows = []
    scored = scores(cells, outcomes, [options.name for options in preset.tasks])
    for row, (_, runs) in zip(scored, by_point(cells, outcomes), strict=True):
        speeds: dict[int, float | None] = {}
        stored: dict[int, float | None] = {}
        for cell, outcome in runs:
            seed, kept = cell.config.seed, outcome.told.get("stored_bytes")
            speeds[seed] = outcome.told.get("examples_per_second")
            stored[seed] = None if kept is None else kept / 1000
        rows.append(dataclasses.replace(row, coordinates={**row.coordinates, MEASURE: SCORE}))
        for measure, by_seed in ((SPEED, speeds), (STORED, stored)):
            rows.append(Row({**row.coordinates, MEASURE: measure}, Value.of(by_seed)))
    return Result.of_runs(
        cells,
        outcomes,
        rows,
        unit=score_unit(preset),
        data=describe_data(preset),
        baseline=commonest_label_score(preset),
        notes=[
            f"{first.steps} steps of {first.batch_size} examples, at the rate of plain vectors.",
            "What most kinds keep is folded to plain vectors; DePT keeps its offsets too, and a "
            "prefix is keys and values of every layer. All have as many virtual tokens, not as "
            "many parameters. Speeds are of this machine, with whatever else ran on it.",
        ],
    )


def draw(figure: Any, told: figures.Told) -> None:
    """Scores only."""
    scored = [row for row in told["rows"] if row["coordinates"][MEASURE] == SCORE]
    figures.by_size(AXIS, ordered=False)(figure, {**told, "rows": scored, "unit": SCORE})


EXPERIMENT = Experiment(
    name="parameterizations",
    title="Parameterisations of the prompt",
    item="beyond the paper",
    finding="Razdaibiedina et al. 2023 find the residual MLP better and steadier than plain "
    "vectors on T5-Base and SuperGLUE; Liu et al. 2021 introduced the MLP and the LSTM, Shi and "
    "Lipani 2024 DePT, Li and Liang 2021 the prefix.",
    compute=compute,
    draw=draw,
)
