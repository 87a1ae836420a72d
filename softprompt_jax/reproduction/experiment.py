"""What an experiment is, the sweep that most of them are, and how one is run and kept."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompt_jax.errors import UserError
from softprompt_jax.figures import check_installed
from softprompt_jax.files import write_text
from softprompt_jax.models.hub import looks_like_hub_id
from softprompt_jax.reproduction import figures
from softprompt_jax.reproduction.grid import (
    Cell,
    Outcome,
    Point,
    finished,
    make_cells,
    run_cells,
)
from softprompt_jax.reproduction.presets import Changes, Preset, Size
from softprompt_jax.reproduction.results import (
    Published,
    Result,
    as_markdown,
    beside,
    commonest_label_score,
    describe_data,
    scores,
    to_json,
    write_json,
)

NO_NUMBERS = "The paper's figure prints no numbers: compare its shape."
ANSWERS = "answers"
BOTH_WAYS = (
    "Among labels: as this preset's other experiments. Written: the models are trained by the "
    "paper's loss and write their answers greedily; one that is no label counts as wrong, so a "
    "score may be lower than that of guessing."
)


@dataclasses.dataclass(frozen=True)
class Context:
    """Where and how an experiment runs.

    Attributes:
        preset: the scale, with the family's folder filled in.
        folder: of all results and runs.
        workers: processes that share the runs.
        say: is told how far it is; None: nobody.
        command: that asked for it, to stand beside the numbers.
    """

    preset: Preset
    folder: Path
    workers: int = 1
    say: Callable[[str], None] | None = None
    command: str = ""

    def run(self, points: Sequence[Point]) -> tuple[list[Cell], list[Outcome]]:
        """Runs points on the preset's tasks and seeds."""
        cells = make_cells(self.preset, points, self.folder)
        return cells, run_cells(cells, self.workers, self.say)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """A figure or table of the paper.

    Attributes:
        name: on the command line.
        title: what is compared.
        item: of the paper, as "figure 3(a)".
        finding: what the paper says of it, in a sentence.
        compute: makes the numbers.
        draw: draws them.
        needs_the_papers: it needs data sets that only the paper's preset has.
    """

    name: str
    title: str
    item: str
    finding: str
    compute: Callable[[Context], Result]
    draw: figures.Draw
    needs_the_papers: bool = False

    def run(self, context: Context) -> dict[str, Any]:
        """Computes the numbers and writes `<preset>/<name>` as `.json`, `.md` and `.png`.

        Returns:
            What the JSON file holds.

        Raises:
            UserError: something is missing that the preset needs.
        """
        check_installed()
        result = self.compute(context)
        facts = {
            "experiment": self.name,
            "title": self.title,
            "item": self.item,
            "reference": f"Lester, Al-Rfou, Constant 2021 (arXiv 2104.08691), {self.item}",
            "finding": self.finding,
            "preset": context.preset.name,
            "about": context.preset.about,
            "command": context.command,
        }
        told = to_json(facts, result)
        folder = context.folder / context.preset.name
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / f"{self.name}.json", told)
        write_text(folder / f"{self.name}.md", as_markdown(told))
        figures.draw_png(folder / f"{self.name}.png", self.draw, told)
        return told


def of_size(size: Size, changes: Changes) -> Changes:
    """The changes that make a preset's recipe a size's, then others."""
    return {**size.changes, "model.name": size.model, **changes}


def ways_to_answer(preset: Preset) -> list[tuple[Changes, Changes]]:
    """How models are trained and answer where what they were pre-trained to do is compared.

    The paper's write their answers, as everywhere. What a model was pre-trained to do shows in
    that; models of small presets write hardly a label, so they are compared among labels too.

    Returns:
        Of each way the coordinates that tell it, and the changes of the preset's recipe.
    """
    if preset.is_the_papers:
        return [({}, {})]
    written = {"task.evaluation": "generate", "train.loss": "tokens"}
    return [({ANSWERS: "among labels"}, {}), ({ANSWERS: "written"}, written)]


def sweep(
    *,
    name: str,
    title: str,
    item: str,
    finding: str,
    axis: str,
    ordered: bool,
    points: Callable[[Context], Sequence[Point]],
    published: Callable[[Any, Any], Published | None] = lambda size, value: None,
    notes: Sequence[str] = (NO_NUMBERS,),
) -> Experiment:
    """An experiment that scores models over the values of one axis.

    Args:
        name: as of `Experiment`, like `title`, `item` and `finding`.
        title: likewise.
        item: likewise.
        finding: likewise.
        axis: the coordinate beside "size".
        ordered: whether its values have an order.
        points: of a context's preset; sizes that `with_models` misses are left out.
        published: from a size's label and a value of the axis to the paper's score; used where
            the preset is the paper's.
        notes: for the reader.
    """

    def compute(context: Context) -> Result:
        preset = context.preset
        found, missing = with_models(context, points(context), name)
        cells, outcomes = context.run(found)
        among = [options.name for options in preset.tasks]
        rows = scores(cells, outcomes, among)
        if preset.is_the_papers:
            rows = beside(rows, lambda at: published(at["size"], at[axis]))
        both_ways = [BOTH_WAYS] if any(ANSWERS in cell.coordinates for cell in cells) else []
        return Result.of_runs(
            cells,
            outcomes,
            rows,
            unit=score_unit(preset),
            data=describe_data(preset),
            baseline=commonest_label_score(preset),
            notes=[*notes, *both_ways, *_left_out(preset, cells, missing)],
            shapes={size.label: size.model for size in preset.sizes},
        )

    return Experiment(name, title, item, finding, compute, figures.by_size(axis, ordered))


def with_models(
    context: Context, points: Sequence[Point], name: str
) -> tuple[list[Point], dict[str, str]]:
    """The points of the sizes whose models before and along LM adaptation are there.

    A size whose runs are all finished needs no models: kept results are drawn again without them.

    Args:
        context: of the experiment.
        points: with a "size" among their coordinates.
        name: of the experiment, for the error.

    Returns:
        The points, and of each size that is left out, by label, a model that is missing.

    Raises:
        UserError: no size has its models.
    """
    missing: dict[str, str] = {}
    # A size's own model is in every experiment: without it nothing starts, as loading tells.
    own = {size.model for size in context.preset.sizes}
    for cell in make_cells(context.preset, points, context.folder):
        model = cell.config.model.name
        there = model in own or looks_like_hub_id(model) or Path(model).exists()
        if not there and finished(Path(cell.config.workdir)) is None:
            missing.setdefault(cell.coordinates["size"], model)
    found = [point for point in points if point.coordinates["size"] not in missing]
    if not found:
        maker = "python tools/pretrain_family.py"
        if context.preset.is_the_papers:
            maker = "python -m softprompt_jax.pretrain with configs/lm_adapt/t5_v1_1_small.py"
        raise UserError(
            f"{name} needs {next(iter(missing.values()))}, which is not there; make it by {maker}, "
            "or name another folder of such runs with --family."
        )
    return found, missing


def _left_out(preset: Preset, cells: Sequence[Cell], missing: Mapping[str, str]) -> list[str]:
    """The sizes that an experiment is without, for the reader."""
    there = {cell.coordinates["size"] for cell in cells}
    never = [
        size.label for size in preset.sizes if size.label not in there and size.label not in missing
    ]
    notes = [f"Without {', '.join(never)}, of which there are no such models."] if never else []
    return notes + [f"Without {label}: {model} is not there." for label, model in missing.items()]


def score_unit(preset: Preset) -> str:
    """What a score is, with its unit."""
    if preset.is_the_papers:
        return "SuperGLUE score (%)"
    return "accuracy (%)" if len(preset.tasks) == 1 else "mean score (%)"


def command_line(name: str, preset: str, workdir: str, family: str | None) -> str:
    """The command that makes a result again."""
    family_option = [] if family is None else ["--family", family]
    words = ["python", "-m", "softprompt_jax.reproduce", name, "--preset", preset]
    return shlex.join([*words, "--workdir", workdir, *family_option])
