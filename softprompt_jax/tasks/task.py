"""What a task is, and the registry of tasks by name."""

import dataclasses
import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from softprompt_jax.errors import UserError
from softprompt_jax.tasks.metrics import Reference, check_labels, get_metric

Example = Mapping[str, Any]
SPLITS = ("train", "validation", "test")
Evaluation = Literal["score", "generate", "likelihood"]
LIKELIHOOD_METRICS = ("log_likelihood",)


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set cast as text to text.

    Attributes:
        name: the name `get_task` knows it by.
        load: from a split's name ("train", "validation" or "test") to its raw examples, which can
            be gone through more than once; only asked for the names in `splits`.
        pairs: from one raw example to the (input, target) strings to train on, without a task
            prefix; an empty list leaves the example out.
        questions: from one raw example to the (input, `Reference`) rows to evaluate on; None: the
            rows of `pairs`, each with its target as the only answer.
        labels: all targets that a classification task has; empty for free text. With two, the
            second is the positive one for the metrics that need to know.
        init_words: words that start a prompt with init="class_labels" where there are no labels.
        metrics: names of the metrics that are reported; their mean decides which prompt is best
            (paper section 3). With evaluation="likelihood" it is ("log_likelihood",).
        evaluation: "score" picks the likeliest label, "generate" decodes text, "likelihood" only
            measures how likely the targets are.
        truncate: which end of an input that is too long is cut.
        input_suffix: text that closes each input and is kept when its end is cut.
        splits: the splits that the task has.
        prefix: the first word of the input with `task_prefix=True`, "" for none; None: the name
            with "/" as "_".
        fingerprint: from a split's name to a text that changes when its raw examples change, or
            what `pairs` and `questions` make of them; with it, the tokenised split is kept for the
            next run. None: tokenised anew each time.
        check: raises a UserError, before anything is loaded, where the data cannot be read here.
    """

    name: str
    load: Callable[[str], Iterable[Example]]
    pairs: Callable[[Example], list[tuple[str, str]]]
    questions: Callable[[Example], list[tuple[str, Reference]]] | None = None
    labels: tuple[str, ...] = ()
    init_words: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ("accuracy",)
    evaluation: Evaluation = "score"
    truncate: Literal["end", "start"] = "end"
    input_suffix: str = ""
    splits: tuple[str, ...] = SPLITS
    prefix: str | None = None
    fingerprint: Callable[[str], str] | None = None
    check: Callable[[], None] | None = None

    def __post_init__(self):
        if self.evaluation not in get_args(Evaluation):
            raise UserError(
                f"Task {self.name} has evaluation={self.evaluation!r}; use 'score', 'generate' or "
                "'likelihood'."
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
        if self.evaluation == "likelihood":
            if self.metrics != LIKELIHOOD_METRICS:
                raise UserError(
                    f"Task {self.name} has evaluation='likelihood', which has the one metric "
                    f"{LIKELIHOOD_METRICS[0]} and not {', '.join(self.metrics)}; leave out the "
                    "metrics if you gave them, else the evaluation."
                )
            return
        for metric in self.metrics:
            get_metric(metric)
            check_labels(metric, self.labels)

    def split(self, name: str) -> Iterable[Example]:
        """The raw examples of one split.

        Raises:
            UserError: the task has no such split, or the split is empty.
        """
        if name not in self.splits:
            raise UserError(
                f"Task {self.name} has no {name!r} split; it has {', '.join(self.splits)}."
            )
        examples = self.load(name)
        if next(iter(examples), None) is None:
            raise UserError(
                f"The {name} split of task {self.name} is empty; it needs at least one example."
            )
        return examples

    def text_pairs(self, example: Example, task_prefix: bool = True) -> list[tuple[str, str]]:
        """The (input, target) strings to train on, none for an example that is left out.

        Args:
            example: one element of `split`; text may be bytes, as tensorflow-datasets gives it.
            task_prefix: start the input with the task's name, as T5's own tasks do.
        """
        pairs = self.pairs(plain(example))
        return [(self._prefixed(text, task_prefix), target) for text, target in pairs]

    def evaluation_rows(
        self, example: Example, task_prefix: bool = True
    ) -> list[tuple[str, Reference]]:
        """The inputs to evaluate on, each with what its prediction is judged by.

        Args:
            example: as for `text_pairs`.
            task_prefix: likewise.
        """
        example = plain(example)
        if self.questions is None:
            rows = [(text, Reference((target,))) for text, target in self.pairs(example)]
        else:
            rows = self.questions(example)
        return [(self._prefixed(text, task_prefix), reference) for text, reference in rows]

    def _prefixed(self, text: str, task_prefix: bool) -> str:
        prefix = self.name.replace("/", "_") if self.prefix is None else self.prefix
        return f"{prefix} {text}" if task_prefix and prefix else text

    def evaluate(
        self, predictions: Sequence[str], references: Sequence[Reference]
    ) -> dict[str, float]:
        """Every metric of the task by name, each at most 1.

        With labels there is also `outside_labels`, the number of predictions that are no label of
        the task; each metric counts them in its own way, none as right.

        Raises:
            UserError: the task is judged by the likelihood of its targets, or its answers are none
                that a metric can do with.
        """
        metrics = {
            name: get_metric(name)(predictions, references, self.labels) for name in self.metrics
        }
        if self.labels:
            known = set(self.labels)
            outside = sum(prediction.strip() not in known for prediction in predictions)
            metrics["outside_labels"] = float(outside)
        return metrics

    def main_value(self, metrics: Mapping[str, float]) -> float:
        """The number that decides which prompt is best: the mean of the task's metrics."""
        return sum(metrics[name] for name in self.metrics) / len(self.metrics)


def plain(value: Any) -> Any:
    """A raw example as plain Python: text for bytes, numbers and lists for numpy's."""
    # The ragged arrays that tensorflow-datasets gives for lists of lists.
    if hasattr(value, "to_list"):
        return plain(value.to_list())
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


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


def takes(name: str, option: str) -> bool:
    """Whether there is a registered task of this name that has the option."""
    if name not in _FACTORIES:
        return False
    parameters = inspect.signature(_FACTORIES[name]).parameters
    return option in parameters or any(
        parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()
    )


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
