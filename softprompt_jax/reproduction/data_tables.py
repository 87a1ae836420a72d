"""Tables 7 to 16: how many examples the data sets have, and which labels, counted from the data.

What is counted is what a run gets: the examples that it trains on or is scored on, as the tasks
read them. A preset without the paper's data counts the tasks that come with the package.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from softprompt_jax.errors import UserError
from softprompt_jax.reproduction.experiment import Context, Experiment
from softprompt_jax.reproduction.figures import Told, grouped, plain_numbers
from softprompt_jax.reproduction.presets import SMALL_TASKS
from softprompt_jax.reproduction.published import TABLE_7, TABLES_8_TO_16, LabelTable
from softprompt_jax.reproduction.results import Published, Result, Row, Value
from softprompt_jax.tasks import Task, get_task

PACKAGED = tuple(options.name for options in SMALL_TASKS)
"""Tasks that come with the package, in the order in which they stand in for the paper's."""

DATA_SET, SPLIT, LABEL = "data set", "split", "label"


@dataclasses.dataclass(frozen=True)
class SplitCount:
    """What a split has.

    Attributes:
        examples: as the data set has them.
        used: those of them that are trained or scored on.
        rows: inputs with a target that they give.
        labels: the targets of the rows by number; of a task without labels whether the target is
            the right answer, "True" or "False".
    """

    examples: int
    used: int
    rows: int
    labels: Mapping[str, int]


def count_split(task: Task, split: str) -> SplitCount:
    """Goes through a split once.

    Raises:
        UserError: the data set cannot be read here.
    """
    examples = used = 0
    labels: Counter[str] = Counter()
    for example in task.split(split):
        if split == "train":
            found = [target if task.labels else "True" for _, target in task.text_pairs(example)]
        else:
            references = [reference for _, reference in task.evaluation_rows(example)]
            found = [each.answers[0] if task.labels else str(each.holds) for each in references]
        examples += 1
        used += bool(found)
        labels.update(found)
    return SplitCount(examples, used, labels.total(), labels)


def _tasks(names: tuple[str, ...]) -> list[Task]:
    tasks = [get_task(name) for name in names]
    for task in tasks:
        if task.check is not None:
            task.check()
    return tasks


# ---------------------------------------------------------------------------------------- table 7


def count_sizes(context: Context) -> Result:
    """The number of examples of every split."""
    papers = context.preset.is_the_papers
    rows, notes = [], []
    for task in _tasks(tuple(TABLE_7) if papers else PACKAGED):
        for split in task.splits:
            count = count_split(task, split)
            printed = TABLE_7[task.name].get(split) if papers else None
            paper = None if printed is None else Published(printed, "table 7")
            rows.append(Row({DATA_SET: task.name, SPLIT: split}, Value(count.used), paper))
            if (count.examples, count.rows) != (count.used, count.used):
                notes.append(
                    f"{task.name}, {split}: {count.rows:,} rows of {count.used:,} examples, of "
                    f"{count.examples:,} that the data set has."
                )
    if papers:
        notes += [
            "The paper's table has test splits too; their labels are not public, and no task "
            "reads them.",
            "The paper's sizes for the sets of MRQA look as if they stood beside other names; "
            "what is counted here is what there is.",
        ]
    return Result(rows, unit="examples", notes=notes)


def draw_sizes(figure: Any, told: Told) -> None:
    """A line a data set, a mark a split."""
    names = list(dict.fromkeys(row["coordinates"][DATA_SET] for row in told["rows"]))
    figure.set_size_inches(11, 1.8 + 0.35 * len(names))
    axes = figure.subplots()
    splits = list(dict.fromkeys(row["coordinates"][SPLIT] for row in told["rows"]))
    for i, split in enumerate(splits):
        own = [row for row in told["rows"] if row["coordinates"][SPLIT] == split]
        y = [names.index(row["coordinates"][DATA_SET]) for row in own]
        axes.plot([row["ours"]["mean"] for row in own], y, "osD"[i % 3], color=f"C{i}", label=split)
        printed = [
            (row["paper"]["value"], at) for row, at in zip(own, y, strict=True) if row["paper"]
        ]
        if printed:
            axes.plot(
                *zip(*printed, strict=True), "x", color="black", alpha=0.5, label=f"{split} (paper)"
            )
    axes.set_yticks(range(len(names)), names)
    axes.set(xscale="log", xlabel=told["unit"], ylim=(len(names) - 0.5, -0.5), xlim=(10, 1e6))
    axes.minorticks_off()
    plain_numbers(axes.xaxis)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    axes.grid(alpha=0.3)


# ---------------------------------------------------------------------------------- tables 8 to 16


def draw_labels(figure: Any, told: Told) -> None:
    """The splits in a row, at each the labels."""
    grouped(SPLIT, LABEL)(figure, told)
    figure.axes[0].set_ylim(-3, 103)


def _label_table(number: int, table: LabelTable, place: int) -> Experiment:
    """The table of one task's labels.

    Args:
        number: of the table.
        table: the paper's.
        place: of the table among those of labels, from 0: without the paper's data the task of
            `PACKAGED` at this place is counted.
    """
    source = f"table {number}"

    def compute(context: Context) -> Result:
        papers = context.preset.is_the_papers
        if not papers and place >= len(PACKAGED):
            raise UserError(
                f"{source.capitalize()} needs the data set {table.task}, which does not come with "
                "the package; use --preset paper."
            )
        (task,) = _tasks((table.task if papers else PACKAGED[place],))
        labels = sorted(task.labels or ("False", "True"))
        rows, notes = [], []
        for split in task.splits:
            count = count_split(task, split)
            for label in labels:
                share = 100 * count.labels.get(label, 0) / count.rows
                printed = table.shares.get((split, label)) if papers else None
                paper = None if printed is None else Published(printed, source)
                rows.append(Row({SPLIT: split, LABEL: label}, Value(share), paper))
            others = count.rows - sum(count.labels.get(label, 0) for label in labels)
            left = f", {others:,} of them with none of these labels" if others else ""
            notes.append(f"{split}: {count.rows:,} rows{left}.")
        return Result(
            rows,
            unit="share (%)",
            data=task.name if papers else f"{task.name} (in its place)",
            notes=[*notes, *about(task, papers)],
        )

    def about(task: Task, papers: bool) -> list[str]:
        if not papers:
            return [
                f"{task.name} comes with the package and stands in for {table.task}, whose data "
                "--preset paper has; there is nothing of the paper's to compare with."
            ]
        notes = ["The paper prints one decimal: differences under 0.05 are its rounding."]
        if not task.labels:
            notes.append("True: the noun that is asked about is the right one.")
        for split in task.splits:
            printed = sum(share for (where, _), share in table.shares.items() if where == split)
            if abs(printed - 100) > 0.15:  # three rounded numbers at most
                notes.append(f"The paper's shares of {split} add up to {printed:.1f} %.")
        return notes

    return Experiment(
        name=f"tab{number}",
        title=f"Labels of {table.task}",
        item=source,
        finding=table.finding,
        compute=compute,
        draw=draw_labels,
        needs_the_papers=place >= len(PACKAGED),
    )


EXPERIMENTS = (
    Experiment(
        name="tab7",
        title="Sizes of the data sets",
        item="table 7",
        finding="250 (CB) to 363,849 (QQP) training examples.",
        compute=count_sizes,
        draw=draw_sizes,
    ),
    *(
        _label_table(number, table, place)
        for place, (number, table) in enumerate(TABLES_8_TO_16.items())
    ),
)
