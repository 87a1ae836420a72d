"""Table 6: options of the paper's search, one of them changed at a time.

The paper tells the values that it tried, in 77 trials of prompt and model tuning, and not what each
gave: there is nothing to compare with. Here no combinations are searched and no model is tuned.
Steps and warm-up are shares of a preset's steps: the paper's 10, 20 and 30 thousand, 2 and 3
thousand. Batches of more than 128 are for the paper's preset, and its decay is not tried: the rate
of small presets always falls linearly.
"""

from typing import Any

from softprompt_jax.reproduction.experiment import Context, Experiment, of_size, score_unit
from softprompt_jax.reproduction.figures import Told
from softprompt_jax.reproduction.grid import Point
from softprompt_jax.reproduction.presets import Preset
from softprompt_jax.reproduction.results import (
    Result,
    commonest_label_score,
    describe_data,
    scores,
)

LEARNING_RATES = (0.001, 0.01, 0.1, 0.3, 0.5)
BATCH_SIZES = (32, 64, 128, 256, 512)  # the paper prints 126 for the third
STEPS = (1 / 3, 2 / 3, 1.0)
WARMUP = (0.0, 1 / 15, 1 / 10)

OPTION, VALUE = "option", "value"


def points(preset: Preset) -> list[Point]:
    """The recipe of the smallest size with one option changed, all tasks and seeds."""
    size, steps = preset.sizes[0], preset.recipe.train.steps
    batches = BATCH_SIZES if preset.is_the_papers else BATCH_SIZES[:3]
    tried: dict[str, list[tuple[Any, dict[str, Any]]]] = {
        "learning rate": [(rate, {"optimizer.learning_rate": rate}) for rate in LEARNING_RATES],
        "parameter scaling": [
            ("off", {"optimizer.name": "lester_adafactor"}),
            ("on", {"optimizer.name": "adafactor"}),
        ],
        "batch size": [(rows, {"train.batch_size": rows}) for rows in batches],
        "steps": [(round(share * steps), {"train.steps": round(share * steps)}) for share in STEPS],
        "warm-up steps": [
            (round(share * steps), {"optimizer.warmup_steps": round(share * steps)})
            for share in WARMUP
        ],
    }
    return [
        Point({OPTION: option, VALUE: value}, of_size(size, changes))
        for option, values in tried.items()
        for value, changes in values
    ]


def compute(context: Context) -> Result:
    """Scores every setting."""
    preset = context.preset
    cells, outcomes = context.run(points(preset))
    return Result.of_runs(
        cells,
        outcomes,
        scores(cells, outcomes, [options.name for options in preset.tasks]),
        unit=score_unit(preset),
        data=describe_data(preset),
        baseline=commonest_label_score(preset),
        notes=[
            f"Prompts of {preset.sizes[0].label}, one option changed at a time; the paper tells "
            "which values it tried and which it chose, not what each scored.",
        ],
    )


def draw(figure: Any, told: Told) -> None:
    """One panel an option."""
    options = list(dict.fromkeys(row["coordinates"][OPTION] for row in told["rows"]))
    panels = figure.subplots(1, len(options), sharey=True)
    for i, (axes, option) in enumerate(zip(panels, options, strict=True)):
        rows = [row for row in told["rows"] if row["coordinates"][OPTION] == option]
        rows = [row for row in rows if row["ours"]["mean"] is not None]
        axes.errorbar(
            range(len(rows)),
            [row["ours"]["mean"] for row in rows],
            yerr=[row["ours"]["deviation"] or 0.0 for row in rows],
            fmt="o-",
            color=f"C{i}",
            capsize=3,
        )
        names = [str(row["coordinates"][VALUE]) for row in rows]
        axes.set_xticks(range(len(rows)), names, rotation=45)
        axes.margins(x=0.2)
        axes.set_xlabel(option)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(told["unit"])


EXPERIMENT = Experiment(
    name="tab6",
    title="Search for hyperparameters",
    item="table 6",
    finding="Of the rates from 0.001 to 0.5, batches of 32 to 512 and 10,000 to 30,000 steps it "
    "took 0.3 without parameter scaling, warm-up or decay, 32 and 30,000.",
    compute=compute,
    draw=draw,
)
