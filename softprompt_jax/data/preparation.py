"""All that a run reads: its splits as tokens, and the shapes of its batches."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from softprompt_jax.config import RunConfig
from softprompt_jax.config_checks import parse_mixture
from softprompt_jax.data.buckets import Shape, plan_shapes
from softprompt_jax.data.cache import TokenCache
from softprompt_jax.data.mixing import Mixing, concatenate, limited_rates
from softprompt_jax.data.splits import Split, read_split, telling_where
from softprompt_jax.data.tokenization import TokenizedExamples, encode_choices
from softprompt_jax.errors import UserError
from softprompt_jax.tasks import Task

# Evaluation is a small part of a run: more shapes would take longer to compile than they save.
EVALUATION_SHAPES = 3


@dataclasses.dataclass(frozen=True)
class RunData:
    """The tokens of a run.

    Attributes:
        splits: of each task to train on, in order: by name, "train" and "validation" at least.
        examples: the training examples of all tasks, one task after the other.
        mixing: which of them an epoch has.
        shapes: of training batches.
        transfer: for each task of `evaluate_on`, the split that is scored.
        evaluation_shapes: that hold every row which is evaluated.
    """

    splits: list[dict[str, Split]]
    examples: TokenizedExamples
    mixing: Mixing
    shapes: tuple[Shape, ...]
    transfer: list[Split]
    evaluation_shapes: tuple[Shape, ...]


def prepare_data(
    config: RunConfig,
    tasks: Sequence[Task],
    transfer: Sequence[Task],
    tokenizer: Any,
    model_config: Any,
    cache: TokenCache | None = None,
) -> RunData:
    """Reads and tokenises every split of a run, and plans its shapes.

    Args:
        config: the run.
        tasks: to train on.
        transfer: to score the best prompt on at the end.
        tokenizer: of the model.
        model_config: of the model.
        cache: where tokens are kept; None: nowhere.

    Raises:
        UserError: a split is missing or has a row that cannot be used, or labels look the same to
            the model, or a loss among labels has rows of other targets, or a metric cannot do with
            the answers.
    """
    for task in tasks:
        for name in ("train", "validation"):
            if name not in task.splits:
                raise UserError(
                    f"Task {task.name} has no {name!r} split, which training needs; it has "
                    f"{', '.join(task.splits)}. Use it with --evaluate_on."
                )
    for task in (*tasks, *transfer):
        if task.evaluation == "score":
            said = [config.task.target_prefix + label for label in task.labels]
            encode_choices(said, tokenizer, model_config)

    def read(task: Task, name: str) -> Split:
        return read_split(config.task, task, name, tokenizer, model_config, cache)

    splits = [{name: read(task, name) for name in task.splits} for task in tasks]
    if config.train.loss == "labels":
        _check_targets(tasks, splits)
    # The last split: "test" where the task has one with labels, else "validation".
    others = [read(task, task.splits[-1]) for task in transfer]
    train = [each["train"].examples for each in splits]
    examples = concatenate(train)
    counts = tuple(map(len, train))
    _, rates = parse_mixture(config.task.mixture)
    if config.task.mixture_limit is not None:
        rates = limited_rates(counts, config.task.mixture_limit)
    options = config.train
    held_out = [
        (task, name, split)
        for task, each in zip(tasks, splits, strict=True)
        for name, split in each.items()
        if name != "train"
    ]
    evaluated = [
        *held_out,
        *((task, task.splits[-1], split) for task, split in zip(transfer, others, strict=True)),
    ]
    for task, name, split in evaluated:
        _check_metrics(task, name, split)
    return RunData(
        splits=splits,
        examples=examples,
        mixing=Mixing(counts, rates),
        shapes=plan_shapes(examples.input_lengths, examples.target_lengths, options.max_shapes),
        transfer=others,
        evaluation_shapes=plan_shapes(
            np.concatenate([split.examples.input_lengths for _, _, split in evaluated]),
            np.concatenate([_evaluated_targets(task, split) for task, _, split in evaluated]),
            min(EVALUATION_SHAPES, options.max_shapes),
        ),
    )


def _check_targets(tasks: Sequence[Task], splits: Sequence[dict[str, Split]]) -> None:
    """Finds training rows that a loss among labels would pass over."""
    for task, each in zip(tasks, splits, strict=True):
        others = len(each["train"].examples) - sum(each["train"].label_counts.values())
        if others:
            raise UserError(
                f"Task {task.name} has {others} training rows whose target is none of its labels; "
                "mend them or leave out --train.loss labels."
            )


def _check_metrics(task: Task, name: str, split: Split) -> None:
    """Finds answers that a metric cannot do with, such as several or none that is a number."""
    if task.evaluation != "likelihood":
        with telling_where(task, name):
            task.evaluate([each.answers[0] for each in split.references], split.references)


def _evaluated_targets(task: Task, split: Split) -> np.ndarray:
    """Target lengths as evaluation batches have them: the targets matter for likelihoods only."""
    lengths = split.examples.target_lengths
    longest = np.full_like(lengths, lengths.max())
    return lengths if task.evaluation == "likelihood" else longest
