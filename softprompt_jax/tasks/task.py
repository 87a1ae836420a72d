"""What a task is, and the registry of tasks by name."""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from softprompt_jax.errors import UserError
from softprompt_jax.tasks.metrics import get_metric

Example = Mapping[str, Any]
SPLITS = ("train", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set cast as text to text.

    Attributes:
        name: the name `get_task` knows it by.
        load: from a split's name ("train", "validation" or "test") to its raw examples; only
            asked for the names in `splits`.
        pairs: from one raw example to its (input, target) strings without a task prefix; an empty
            list leaves the example out.
        labels: all targets that a classification task has; empty for free text.
        metrics: names of the metrics that are reported; the first decides which prompt is best.
        evaluation: "score" picks the likeliest label, "generate" decodes text.
        truncate: which end of an input that is too long is cut.
        input_suffix: text that closes each input and is kept when its end is cut.
        splits: the splits that the task has.
        prefix: the first word of the input with `task_prefix=True`; None: the name with "/" as "_".
    """

    name: str
    load: Callable[[str], Sequence[Example]]
    pairs: Callable[[Example], list[tuple[str, str]]]
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    evaluation: Literal["score", "generate"] = "score"
    truncate: Literal["end", "start"] = "end"
    input_suffix: str = ""
    splits: tuple[str, ...] = SPLITS
    prefix: str | None = None

    def __post_init__(self):
        if self.evaluation not in ("score", "generate"):
            raise UserError(
                f"Task {self.name} has evaluation={self.evaluation!r}; use 'score' or 'generate'."
            )
        if self.truncate not in ("end", "start"):
            raise UserError(
                f"Task {self.name} has truncate={self.truncate!r}; use 'end' or 'start'."
            )
        if self.evaluation == "score" and len(self.labels) < 2:
            raise UserError(
                f"Task {self.name} has {len(self.labels)} label(s), and evaluation='score' chooses "
                "among at least two; give the labels or use evaluation='generate'."
            )
        if not self.metrics:
            raise UserError(f"Task {self.name} has no metric; name at least one.")
        for metric in self.metrics:
            get_metric(metric)

    def split(self, name: str) -> Sequence[Example]:
        """The raw examples of one split.

        Raises:
            UserError: the task has no such split, or the split is empty.
        """
        if name not in self.splits:
            raise UserError(
                f"Task {self.name} has no {name!r} split; it has {', '.join(self.splits)}."
            )
        examples = self.load(name)
        if not examples:
            raise UserError(
                f"The {name} split of task {self.name} is empty; it needs at least one example."
            )
        return examples

    def text_pairs(self, example: Example, task_prefix: bool = True) -> list[tuple[str, str]]:
        """The (input, target) strings of one raw example, none for one that is left out.

        Args:
            example: one element of `split`.
            task_prefix: start the input with the task's name, as T5's own tasks do.
        """
        pairs = self.pairs(example)
        if not task_prefix:
            return pairs
        prefix = self.name.replace("/", "_") if self.prefix is None else self.prefix
        return [(f"{prefix} {text}", target) for text, target in pairs]

    def evaluate(self, predictions: Sequence[str], targets: Sequence[str]) -> dict[str, float]:
        """Every metric of the task by name, each in [0, 1]."""
        return {name: get_metric(name)(predictions, targets) for name in self.metrics}


_FACTORIES: dict[str, Callable[..., Task]] = {}


def register_task(name: str, factory: Callable[..., Task]) -> None:
    """Makes a task known to `get_task`.

    Args:
        name: the task's name, such as "super_glue/boolq".
        factory: called with `get_task`'s keyword options; should not load data yet.

    Raises:
        UserError: the name is empty or taken.
    """
    if not name or name != name.strip():
        raise UserError(f"A task cannot be named {name!r}; give it a name without outer spaces.")
    if name in _FACTORIES:
        raise UserError(f"There is already a task {name}; register yours under another name.")
    _FACTORIES[name] = factory


def task_names() -> tuple[str, ...]:
    """The names of all registered tasks, sorted."""
    return tuple(sorted(_FACTORIES))


def get_task(name: str, **options: Any) -> Task:
    """The task of this name, or a task made of the user's own files.

    Args:
        name: a registered name, or any other name together with `train_file`.
        **options: of the registered task, or those of `softprompt_jax.tasks.files.file_task`. An
            option that is None counts as not given. `evaluation` ("score" or "generate") may be
            chosen for every task.

    Raises:
        UserError: unknown name or option, or files that do not make a task.
    """
    # Imported here: files.py builds Tasks, so it imports this module.
    from softprompt_jax.tasks.files import file_task

    options = {key: value for key, value in options.items() if value is not None}
    evaluation = options.get("evaluation")
    if name in _FACTORIES:
        factory = _FACTORIES[name]
        given = {key: value for key, value in options.items() if key != "evaluation"}
        if "train_file" in given:
            raise UserError(
                f"{name} is a built-in task and takes no train_file; choose another name for yours."
            )
        _check_options(name, factory, given)
        task = factory(**given)
        return task if evaluation is None else dataclasses.replace(task, evaluation=evaluation)
    if "train_file" in options:
        _check_options(name, file_task, options)
        return file_task(name, **options)
    known = ", ".join(task_names())
    close = difflib.get_close_matches(name, _FACTORIES, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UserError(
        f"There is no task {name!r}: {hint}Known tasks: {known}; or give a train_file and a "
        "validation_file."
    )


def _check_options(name: str, factory: Callable[..., Task], options: Mapping[str, Any]) -> None:
    parameters = inspect.signature(factory).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters if parameter.name != "name"]
    for option in options:
        if option not in known:
            close = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {close[0]}?" if close else "remove it."
            raise UserError(f"Task {name} has no option {option}; {hint}")
