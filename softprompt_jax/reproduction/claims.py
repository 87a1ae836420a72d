"""The paper's claims about size and length as questions, answered from the runs of its figures.

Nothing is trained for it that figures 1 and 3(a) do not train.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from softprompt_jax.reproduction import fig1, fig3a
from softprompt_jax.reproduction.experiment import Context, Experiment
from softprompt_jax.reproduction.figures import MARKERS, Told, size_axis
from softprompt_jax.reproduction.published import MODEL_TUNING, PROMPT_TUNING
from softprompt_jax.reproduction.results import (
    Result,
    Row,
    Value,
    commonest_label_score,
    describe_data,
    scores,
)

QUESTION = "question"
OVER_MODEL_TUNING = "prompt tuning less model tuning (points)"
OVER_COMMONEST = "prompt tuning less the commonest label (points)"
SHORTEST = "shortest prompt within a point of the best (tokens)"

LENGTH = 20
"""Tokens beyond which the paper finds little gain."""


def longer(more: int, less: int) -> str:
    """The question what some tokens more give."""
    return f"{more} tokens less {less} (points)"


PAIRS = ((5, 1), (LENGTH, 5), (100, LENGTH), (150, LENGTH))


def compute(context: Context) -> Result:
    """Compares the scores of the two figures' runs, seed by seed."""
    preset = context.preset
    of_figure_1 = [
        point
        for point in fig1.points(preset)
        if point.coordinates["size"] in {size.label for size in preset.sizes}
        and point.coordinates[fig1.AXIS] in (PROMPT_TUNING, MODEL_TUNING)
    ]
    cells, outcomes = context.run([*of_figure_1, *fig3a.points(preset)])
    rows = scores(cells, outcomes, [options.name for options in preset.tasks])
    commonest = commonest_label_score(preset)
    answers = [
        Row({"size": size.label, QUESTION: question}, value)
        for size in preset.sizes
        for question, value in _answers(rows, size.label, commonest).items()
    ]
    return Result.of_runs(
        cells,
        outcomes,
        answers,
        unit="see the first column",
        data=describe_data(preset),
        notes=[
            "Differences are of the same seed. The shortest prompt is read off the means over the "
            f"seeds, of {', '.join(map(str, fig3a.LENGTHS[:-1]))} and {fig3a.LENGTHS[-1]} tokens.",
            f"Where no length is told it is {preset.recipe.prompt.length} tokens.",
        ],
    )


def _answers(rows: Sequence[Row], size: str, commonest: float | None) -> dict[str, Value]:
    """Every question about a size, with its answer."""
    own = [row for row in rows if row.coordinates["size"] == size]
    scored: dict[Any, Value] = {
        row.coordinates[axis]: row.ours
        for row in own
        for axis in (fig1.AXIS, fig3a.AXIS)
        if axis in row.coordinates
    }
    prompt = scored[PROMPT_TUNING]
    answers = {OVER_MODEL_TUNING: difference(prompt, scored[MODEL_TUNING])}
    if commonest is not None:
        always = Value.of(dict.fromkeys(prompt.by_seed, commonest))
        answers[OVER_COMMONEST] = difference(prompt, always)
    for more, less in PAIRS:
        answers[longer(more, less)] = difference(scored[more], scored[less])
    answers[SHORTEST] = Value(shortest({length: scored[length].mean for length in fig3a.LENGTHS}))
    return answers


def difference(one: Value, other: Value) -> Value:
    """One less the other, seed by seed; a seed counts where both have a value."""
    by_seed: dict[str, float | None] = {}
    for seed, mine in one.by_seed.items():
        theirs = other.by_seed.get(seed)
        by_seed[seed] = None if mine is None or theirs is None else mine - theirs
    return Value.of(by_seed)


def shortest(means: Mapping[int, float | None], within: float = 1.0) -> int | None:
    """The least length whose score is within some points of the best; None: there are no scores."""
    there = {length: mean for length, mean in means.items() if mean is not None}
    if not there:
        return None
    return min(length for length, mean in there.items() if mean >= max(there.values()) - within)


def draw(figure: Any, told: Told) -> None:
    """Differences of methods, what more tokens give, and the shortest prompt, over the sizes."""
    panels = figure.subplots(1, 3)
    pairs = {longer(*pair) for pair in PAIRS}
    methods = {OVER_MODEL_TUNING, OVER_COMMONEST}
    _over_sizes(panels[0], told, lambda question: question in methods, "points")
    _over_sizes(panels[1], told, lambda question: question in pairs, "points")
    _over_sizes(panels[2], told, lambda question: question == SHORTEST, "tokens")


def _over_sizes(axes: Any, told: Told, wanted: Callable[[str], bool], unit: str) -> None:
    models = told["models"]
    rows = [row for row in told["rows"] if wanted(row["coordinates"][QUESTION])]
    for i, question in enumerate(dict.fromkeys(row["coordinates"][QUESTION] for row in rows)):
        own = [
            row
            for row in rows
            if row["coordinates"][QUESTION] == question and row["ours"]["mean"] is not None
        ]
        axes.errorbar(
            [models[row["coordinates"]["size"]]["parameters"] for row in own],
            [row["ours"]["mean"] for row in own],
            yerr=[row["ours"]["deviation"] or 0.0 for row in own],
            fmt=f"{MARKERS[i]}-",
            color=f"C{i}",
            capsize=3,
            label=question.removesuffix(f" ({unit})"),
        )
    size_axis(axes, models, list(models))
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_ylabel(unit)
    axes.grid(alpha=0.3)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high + 0.4 * (high - low))  # room for the legend
    axes.legend(fontsize=8, loc="upper center")


EXPERIMENT = Experiment(
    name="claims",
    title="What size and length give",
    item="abstract and section 3.2",
    finding="Prompt tuning closes the gap to model tuning as models grow, larger models do with "
    "shorter prompts, and beyond 20 tokens the gain is marginal.",
    compute=compute,
    draw=draw,
)
