"""What tables 1 and 2 share: trained on one task, scored on others, by both kinds of tuning."""

from collections.abc import Callable, Sequence

from softprompt_jax.errors import UserError
from softprompt_jax.reproduction.experiment import Context, of_size
from softprompt_jax.reproduction.grid import Outcome, Point
from softprompt_jax.reproduction.presets import Preset, paper_task
from softprompt_jax.reproduction.published import MODEL_TUNING, PROMPT_TUNING
from softprompt_jax.reproduction.results import (
    Published,
    Result,
    Row,
    Value,
)

METHOD, TRAINED_ON, SCORED_ON = "method", "trained on", "scored on"

Printed = Callable[[str, str, str], tuple[tuple[float, float], tuple[float, float]] | None]
"""From the tasks of training and scoring and a metric to the paper's numbers, model tuning first,
each with its standard deviation."""


def points(preset: Preset, source: str, others: Sequence[str]) -> list[Point]:
    """The largest size by both methods.

    Args:
        preset: the paper's: no other has the data.
        source: task to train on.
        others: tasks to score on, beside its own validation split.

    Raises:
        UserError: the preset's tasks come with the package.
    """
    if not preset.is_the_papers:
        raise UserError(
            f"This table needs the data sets {source} and {', '.join(others)}, which do not come "
            "with the package; use --preset paper."
        )
    size = preset.sizes[-1]
    return [
        Point(
            {TRAINED_ON: source, METHOD: method},
            of_size(size, {**changes, "evaluate_on": tuple(others)}),
            tasks=(paper_task(source),),
        )
        for method, changes in ((MODEL_TUNING, preset.model_tuning), (PROMPT_TUNING, {}))
    ]


def compare(
    context: Context,
    found: Sequence[Point],
    metrics: Sequence[str],
    printed: Printed,
    source: str,
    in_domain: bool,
) -> Result:
    """Trains the points and takes their scores on all tasks.

    Args:
        context: of the experiment.
        found: what to train.
        metrics: to tell.
        printed: the paper's numbers.
        source: where they stand.
        in_domain: tell the scores on the validation split of the training task too.
    """
    cells, outcomes = context.run(found)
    rows: dict[tuple[str, str, str, str], dict[int, float | None]] = {}
    for cell, outcome in zip(cells, outcomes, strict=True):
        trained_on, method = cell.coordinates[TRAINED_ON], cell.coordinates[METHOD]
        for task in (*([trained_on] if in_domain else []), *cell.config.evaluate_on):
            place = "validation" if task == trained_on else f"evaluate_on/{task}"
            for metric in metrics:
                by_seed = rows.setdefault((trained_on, task, metric, method), {})
                by_seed[cell.config.seed] = score(outcome, f"{place}/{metric}")
    told = []
    for (trained_on, task, metric, method), by_seed in rows.items():
        paper = printed(trained_on, task, metric)
        value = None
        if paper is not None:
            mean, deviation = paper[method == PROMPT_TUNING]
            value = Published(mean, source, deviation)
        coordinates = {TRAINED_ON: trained_on, SCORED_ON: f"{task}, {metric}", METHOD: method}
        told.append(Row(coordinates, Value.of(by_seed), value))
    return Result.of_runs(
        cells,
        outcomes,
        told,
        unit="score (%)",
        notes=[
            "The checkpoint is chosen on the validation split of the training task. The captions "
            "of the paper's tables 1 and 2 tell no model size; this is its largest.",
        ],
    )


def score(outcome: Outcome, name: str) -> float | None:
    """A metric of a run in percent; None if it diverged."""
    return None if outcome.diverged is not None else 100 * outcome.metrics[name]
