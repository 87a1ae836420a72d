"""Section 7: the tokens that are nearest to what was learned, by how the prompt started."""

from pathlib import Path
from typing import Any

import jax

from softprompt_jax.analysis import labels, neighbours
from softprompt_jax.analysis.vocabulary import Vocabulary
from softprompt_jax.models import resolve_model
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.reproduction import fig3b
from softprompt_jax.reproduction.experiment import Context, Experiment
from softprompt_jax.reproduction.figures import Told, grouped
from softprompt_jax.reproduction.grid import Point
from softprompt_jax.reproduction.presets import Preset
from softprompt_jax.reproduction.results import (
    Result,
    Row,
    Value,
    describe_data,
)
from softprompt_jax.training.setup import resolve_dtype, start_words, tasks_from_options

NEIGHBOURS = 5
SHOWN = 8

AXIS, MEASURE = fig3b.AXIS, "measure"

TIGHT = "cosine among neighbours"
CONTROL = "the same of random vectors"
NEAREST = "cosine to the nearest token"
NEAR = f"labels among the {NEIGHBOURS} nearest of a position (%)"
OWN = f"labels among the {NEIGHBOURS} nearest of their own position (%)"
REPEATED = "tokens near several positions"


def points(preset: Preset) -> list[Point]:
    """Those of figure 3(b), at the largest size."""
    largest = preset.sizes[-1].label
    return [point for point in fig3b.points(preset) if point.coordinates["size"] == largest]


def compute(context: Context) -> Result:
    """Looks up the neighbours of every prompt; each point is a mean over its tasks and seeds."""
    preset = context.preset
    cells, outcomes = context.run(points(preset))
    dtype = resolve_dtype(preset.recipe, jax.local_devices()[0].platform)
    model = resolve_model(cells[0].config.model.name).load(dtype)
    vocabulary = Vocabulary.of(model, special=False)
    found: dict[tuple[str, str], dict[str, float | None]] = {}
    shown = []
    for cell, outcome in zip(cells, outcomes, strict=True):
        if outcome.diverged is not None:
            continue
        start, task = cell.coordinates[AXIS], cell.config.task.name
        run = f"{task}, seed {cell.config.seed}"
        prompt = SoftPrompt.load(Path(cell.config.workdir) / "best")
        near = neighbours.describe({run: prompt}, vocabulary, NEIGHBOURS, cell.config.seed)
        told = near["prompts"][run]
        summary = told["summary"]
        measures = {
            TIGHT: summary["cosine_among_neighbours"],
            CONTROL: told["control"]["cosine_among_neighbours"],
            NEAREST: summary["nearest_cosine_mean"],
            REPEATED: float(summary["tokens_of_several_positions"]),
        }
        words = start_words(tasks_from_options(cell.config.task))
        if words:
            place = labels.describe({run: prompt}, {run: words}, vocabulary, NEIGHBOURS)
            (persistence,) = place["by_init"].values()
            measures[NEAR] = 100 * persistence["near_any"] / persistence["labels"]
            if persistence["near_own"] is not None:
                measures[OWN] = 100 * persistence["near_own"] / persistence["labels"]
        for measure, value in measures.items():
            found.setdefault((start, measure), {})[run] = value
        if cell.config.seed == preset.seeds[0]:
            clusters = (
                "/".join(each["text"].strip() for each in position["neighbours"])
                for position in told["positions"][:SHOWN]
            )
            shown.append(f"{start}, {run}: {'; '.join(clusters)}.")
    tasks, seeds = len(preset.tasks), len(preset.seeds)
    return Result.of_runs(
        cells,
        outcomes,
        [
            Row({AXIS: start, MEASURE: measure}, Value.of(by_run))
            for (start, measure), by_run in found.items()
        ],
        unit="see the first column",
        decimals=3,
        data=describe_data(preset),
        over=f"{tasks * seeds} runs ({tasks} tasks x {seeds} seeds)" if tasks > 1 else "",
        notes=[
            f"Prompts of {preset.sizes[-1].label}; neighbours by cosine among "
            f"{len(vocabulary.ids):,} tokens without special ones; ± over tasks and seeds.",
            f"The neighbours of the first {SHOWN} positions: ",
            *shown,
        ],
    )


def draw(figure: Any, told: Told) -> None:
    """The cosines; shares and counts have another scale."""
    cosines = [
        row for row in told["rows"] if row["coordinates"][MEASURE] in (TIGHT, CONTROL, NEAREST)
    ]
    grouped(AXIS, MEASURE)(figure, {**told, "rows": cosines, "unit": "cosine"})


EXPERIMENT = Experiment(
    name="sec7",
    title="What prompts are near to",
    item="section 7",
    finding="The five nearest neighbours of a position form tight clusters, which those of random "
    "vectors do not; class labels persist where the prompt started from them, and appear near "
    "several positions where it did not; long prompts repeat neighbours.",
    compute=compute,
    draw=draw,
)
