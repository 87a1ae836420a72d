"""Figure 1: prompt tuning, model tuning and prompt design over the models' sizes."""

import dataclasses

from softprompt_jax.config import TaskOptions
from softprompt_jax.reproduction import figures, published
from softprompt_jax.reproduction.answers import score_design
from softprompt_jax.reproduction.experiment import Context, Experiment, of_size, score_unit
from softprompt_jax.reproduction.grid import Point, cached_json, make_cells
from softprompt_jax.reproduction.presets import Preset, Size
from softprompt_jax.reproduction.published import MODEL_TUNING, MULTITASK, PROMPT_TUNING
from softprompt_jax.reproduction.results import (
    Result,
    Row,
    Value,
    beside,
    commonest_label_score,
    describe_data,
    scores,
)

AXIS = "method"
PROMPT_DESIGN = "prompt design"


def points(preset: Preset) -> list[Point]:
    """All that is trained: every size by every method, other models by prompt tuning."""
    found = []
    for size in (*preset.sizes, *preset.others):
        at = {"size": size.label}
        found.append(Point({**at, AXIS: PROMPT_TUNING}, of_size(size, {})))
        if size in preset.others:
            continue
        found.append(Point({**at, AXIS: MODEL_TUNING}, of_size(size, preset.model_tuning)))
        if len(preset.tasks) > 1:
            changes = of_size(size, {**preset.model_tuning, **preset.multitask_tuning})
            found.append(Point({**at, AXIS: MULTITASK}, changes, tasks=(_mixture(preset),)))
    return found


def _mixture(preset: Preset) -> TaskOptions:
    return TaskOptions(
        name="all_tasks",
        mixture=(*(options.name for options in preset.tasks), *preset.multitask),
        max_input_length=max(options.max_input_length for options in preset.tasks),
        max_target_length=max(options.max_target_length for options in preset.tasks),
    )


def designs(context: Context, size: Size) -> Row:
    """Prompt design with a size: nothing is trained, the seeds draw the examples."""
    preset = context.preset
    cells = make_cells(preset, [Point({"size": size.label}, of_size(size, {}))], context.folder)
    by_seed: dict[int, list[float]] = {}
    for cell in cells:
        config = cell.config
        facts = [config.model.name, dataclasses.asdict(config.task), preset.shots, config.seed]
        name = f"{size.label}-{config.task.name.replace('/', '_')}-{config.seed}.json"
        path = context.folder / preset.name / "designs" / name
        score = cached_json(path, facts, lambda config=config: score_design(config, preset.shots))
        by_seed.setdefault(config.seed, []).append(score)
    means = {seed: sum(each) / len(each) for seed, each in by_seed.items()}
    return Row({"size": size.label, AXIS: PROMPT_DESIGN}, Value.of(means))


def compute(context: Context) -> Result:
    """Trains and designs."""
    preset = context.preset
    cells, outcomes = context.run(points(preset))
    rows = scores(cells, outcomes, [options.name for options in preset.tasks])
    if preset.is_the_papers:
        rows = beside(rows, lambda at: published.figure_1(at["size"], at[AXIS]))
    rows += [designs(context, size) for size in (*preset.sizes, *preset.others)]
    notes = [
        f"Prompt design: {preset.shots} solved training examples as text before each input, with "
        "the frozen models of this figure, of which the likeliest label counts; the paper's figure "
        "has GPT-3 instead.",
    ]
    if len(preset.tasks) == 1:
        notes.append("Multi-task model tuning is left out: this preset has one task.")
    return Result.of_runs(
        cells,
        outcomes,
        rows,
        unit=score_unit(preset),
        data=describe_data(preset),
        baseline=commonest_label_score(preset),
        notes=notes,
    )


EXPERIMENT = Experiment(
    name="fig1",
    title="Prompt tuning, model tuning and prompt design",
    item="figure 1",
    finding="Prompt tuning comes closer to model tuning the larger the model, equals it at XXL, "
    "and is far better than prompt design.",
    compute=compute,
    draw=figures.by_size(AXIS, ordered=False),
)
