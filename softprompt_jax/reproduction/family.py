"""Not in the paper: what this project's T5s learn, task by task, beside what needs no learning."""

import dataclasses
from pathlib import Path
from typing import Any

from softprompt_jax.config import TaskOptions
from softprompt_jax.reproduction import figures
from softprompt_jax.reproduction.experiment import Context, Experiment, of_size
from softprompt_jax.reproduction.grid import Point
from softprompt_jax.reproduction.presets import Preset
from softprompt_jax.reproduction.published import MODEL_TUNING, PROMPT_TUNING
from softprompt_jax.reproduction.results import (
    Result,
    Row,
    Value,
    commonest_label_score_of,
    describe_data,
    scores,
)

TASK, METHOD = "task", "method"
COMMONEST, UNTRAINED = "commonest label", "untrained prompt"
PAPERS_LOSS = "prompt tuning, the paper's loss"

SMS_SPAM = "sms_spam's score is the mean of F1 and accuracy: 90 % of its test messages are normal."

# A run has at least a step; this one moves nothing.
_NO_TRAINING = {
    "train.steps": 1,
    "train.evaluate_every": 1,
    "optimizer.learning_rate": 1e-12,
    "optimizer.weight_decay": 0.0,
}

_TOPICS = "bbc/{}.jsonl"


def tasks(preset: Preset) -> list[TaskOptions]:
    """The preset's, and the BBC's topics where tools/build_bbc_topics.py has written them."""
    if not Path(_TOPICS.format("train")).is_file():
        return list(preset.tasks)
    topics = TaskOptions(
        name="bbc_topics",
        train_file=_TOPICS.format("train"),
        validation_file=_TOPICS.format("validation"),
        test_file=_TOPICS.format("test"),
        input_template="{text} topic:",
        target_column="topic",
        # The beginning of an article tells its topic; all of it would take hours more.
        max_input_length=128,
        max_target_length=8,
    )
    return [*preset.tasks, topics]


def points(preset: Preset) -> list[Point]:
    """Every task and size: the prompt's start, the trained prompt, and the tuned model.

    The smallest size shows what becomes of a prompt by the paper's loss.
    """
    return [
        Point({TASK: options.name, "size": size.label, METHOD: method}, changes, tasks=(options,))
        for options in tasks(preset)
        for size in preset.sizes
        for method, changes in (
            (UNTRAINED, of_size(size, _NO_TRAINING)),
            (PAPERS_LOSS, of_size(size, {"train.loss": "tokens"})),
            (PROMPT_TUNING, of_size(size, {})),
            (MODEL_TUNING, of_size(size, preset.model_tuning)),
        )
        if method != PAPERS_LOSS or size == preset.sizes[0]
    ]


def compute(context: Context) -> Result:
    """Runs all, and scores each task by itself."""
    preset = context.preset
    cells, outcomes = context.run(points(preset))
    rows = []
    for options in tasks(preset):
        commonest = commonest_label_score_of(options)
        if commonest is not None:
            at = {TASK: options.name, "size": "any", METHOD: COMMONEST}
            rows.append(Row(at, Value(commonest)))
        own = [i for i, cell in enumerate(cells) if cell.coordinates[TASK] == options.name]
        rows += scores([cells[i] for i in own], [outcomes[i] for i in own], [options.name])
    used = dataclasses.replace(preset, tasks=tuple(tasks(preset)))
    notes = [SMS_SPAM]
    if used.tasks == preset.tasks:
        notes.append("BBC topics are left out: tools/build_bbc_topics.py has not written bbc/.")
    return Result.of_runs(
        cells,
        outcomes,
        rows,
        unit="score (%)",
        data=describe_data(used),
        notes=notes,
    )


def draw(figure: Any, told: figures.Told) -> None:
    """A panel a task, the sizes in a row."""
    names = figures.distinct(told["rows"], TASK)
    methods = [each for each in figures.distinct(told["rows"], METHOD) if each != COMMONEST]
    panels = figure.subplots(1, len(names), sharey=True, squeeze=False)[0]
    for axes, name in zip(panels, names, strict=True):
        of_task = [row for row in told["rows"] if row["coordinates"][TASK] == name]
        rows = [row for row in of_task if row["coordinates"][METHOD] != COMMONEST]
        figures.draw_groups(axes, rows, "size", METHOD, methods)
        for row in of_task:
            if row not in rows:
                axes.axhline(row["ours"]["mean"], color="grey", linestyle=":", label=COMMONEST)
        axes.set_title(name, fontsize=10)
    panels[0].set_ylabel(told["unit"])
    figures.legend_beside(panels[-1], METHOD)


EXPERIMENT = Experiment(
    name="family",
    title="The T5s of this project, task by task",
    item="beyond the paper",
    finding="Below a billion parameters prompt tuning stays behind model tuning (figure 1).",
    compute=compute,
    draw=draw,
)
