"""`train`: tuning a prompt, or the whole model, on tasks."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from softprompt_jax.config import RunConfig, TaskOptions
from softprompt_jax.config_checks import check
from softprompt_jax.data import BatchStream, Shape
from softprompt_jax.data.cache import TokenCache
from softprompt_jax.data.preparation import RunData, prepare_data
from softprompt_jax.data.report import describe_run
from softprompt_jax.data.splits import cache_folder
from softprompt_jax.errors import UserError
from softprompt_jax.exchange.card import on_the_hub
from softprompt_jax.exchange.hub import check_repo_id, check_token
from softprompt_jax.models import resolve_model
from softprompt_jax.models.families import ModelConfig
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.tasks import Task, rename_labels
from softprompt_jax.training import partition, processes
from softprompt_jax.training.evaluation import Evaluator
from softprompt_jax.training.flops import run_step_flops
from softprompt_jax.training.loop import run
from softprompt_jax.training.parallel import Layout
from softprompt_jax.training.setup import (
    check_freeze,
    check_loss,
    check_positions,
    check_prompt,
    load_placed,
    prepare_step,
    run_layout,
    tasks_from_options,
    transfer_tasks,
)
from softprompt_jax.training.workdir import TrainResult, Workdir


def train(config: RunConfig) -> TrainResult:
    """Runs a config, or goes on with the run that its folder holds.

    Every process of a job calls it with the same config; the first one writes the folder, which all
    of them see.

    Args:
        config: the run; `load_config` makes one from a recipe.

    Returns:
        The best prompt and its metrics. The run's folder holds `config.json`, `metrics.jsonl`,
        `tensorboard/`, `checkpoints/`, `best/` and, once finished, `result.json`.

    Raises:
        UserError: a mistake in the config, found before the model's weights are read.
        DivergedError: loss or gradient was not finite.
        LostProcessError: another process of the job ended.

    References:
        Lester, Al-Rfou, Constant 2021, sections 2 and 3.
    """
    check(config)
    if config.push_to_hub is not None:
        _check_push(config)
    processes.join(config.parallel)
    with processes.telling_of_deaths():
        result = _train(config)
        best = result.best_prompt
        if config.push_to_hub is not None and isinstance(best, SoftPrompt) and result.finished:
            with processes.first_one_first():  # the others are told if it fails
                if processes.is_first():
                    best.push_to_hub(config.push_to_hub)
    return result


def _check_push(config: RunConfig) -> None:
    """Finds what would keep the prompt from the hub before hours of training."""
    if config.train.method != "prompt_tuning":
        raise UserError("Only prompts go to the hub; leave out --push_to_hub.")
    if config.prompt.parameterization == "multitask":
        raise UserError(
            "A multitask prompt is a folder of prompts, one a task; leave out --push_to_hub, and "
            "put them there by `python -m softprompt_jax.export`."
        )
    if config.prompt.parameterization in ("dept", "prefix"):
        raise UserError(
            f"A {config.prompt.parameterization} prompt is more than vectors, which is all that "
            "goes to the hub; leave out --push_to_hub."
        )
    check_repo_id(config.push_to_hub or "")
    check_token(None)
    if not on_the_hub(config.model.name):
        raise UserError(
            f"{config.model.name} is no hub id, so nobody would find the prompt's model; leave out "
            "--push_to_hub, and name the model to `python -m softprompt_jax.export`."
        )


def _train(config: RunConfig) -> TrainResult:
    started = time.monotonic()

    # ---------------------------------------------------------------- what is asked for
    files = resolve_model(config.model.name)
    layout = run_layout(config, files.config)
    tasks = tasks_from_options(config.task, config.evaluate_on)
    transfer = transfer_tasks(config)
    check_loss(config, tasks)
    check_positions(config, files.config)
    if config.train.method == "prompt_tuning":
        check_prompt(config, files.config, tasks)
    check_freeze(config, files.config)
    with processes.first_one_first():
        workdir = Workdir(config)
    with workdir:  # it is this run's until the end, also in a notebook
        return workdir.result() or _tune(
            config, workdir, files, layout, tasks, transfer, started=started
        )


def _tune(
    config: RunConfig,
    workdir: Workdir,
    files: ModelFiles,
    layout: Layout,
    tasks: list[Task],
    transfer: list[Task],
    *,
    started: float,
) -> TrainResult:
    options = config.train

    # ----------------------------------------------------------------------------- data
    tokenizer = files.load_tokenizer()
    cache = TokenCache(cache_folder(config.task, config.workdir))
    with processes.first_one_first():  # the others find its tokens in the cache
        data = prepare_data(config, tasks, transfer, tokenizer, files.config, cache)

    # -------------------------------------------------------------------- model and state
    model = load_placed(config, files, layout)
    _ = model.fingerprint  # kept from now on: model tuning gives the memory of these weights away
    prepared = prepare_step(config, model, tasks, layout)
    evaluator = Evaluator(
        prepared.folding(layout).graphdef,
        files.config,
        tokenizer,
        shapes=data.evaluation_shapes,
        batch_size=options.evaluate_batch_size or options.batch_size,
        max_target_length=config.task.max_target_length,
        layout=layout,
        target_prefix=config.task.target_prefix,
    )
    subject = TaskSubject(config, files.config, tasks, transfer, data, evaluator)
    return run(
        config,
        workdir,
        layout,
        model,
        prepared,
        subject,
        started=started,
        data_fingerprint=data.examples.fingerprint(),
    )


@dataclasses.dataclass(frozen=True)
class TaskSubject:
    """Tasks as what a run learns from and is judged by; see `loop.Subject`.

    Attributes:
        config: the run.
        model_config: of the model.
        tasks: to train on.
        transfer: to score the best prompt on at the end.
        data: the tokens of all of them.
        evaluator: that predicts on them.
    """

    config: RunConfig
    model_config: ModelConfig
    tasks: list[Task]
    transfer: list[Task]
    data: RunData
    evaluator: Evaluator

    @property
    def name(self) -> str:
        """The task, as the best prompt's card has it; of a mixture without a name, its tasks."""
        options = self.config.task
        if options.mixture and options.name == TaskOptions().name:
            return "+".join(task.name for task in self.tasks)
        return options.name

    @property
    def labels(self) -> tuple[tuple[str, ...], ...]:
        """What is said for each task's labels."""
        prefix = self.config.task.target_prefix
        return tuple(tuple(prefix + label for label in task.labels) for task in self.tasks)

    def describe(self) -> str:
        """The data, for people."""
        return describe_run(self.config, self.tasks, self.transfer, self.data)

    def stream(self, position: int, own: np.ndarray) -> BatchStream:
        """Training batches from a position on, of this process's rows."""
        return BatchStream(
            self.data.examples,
            self.data.shapes,
            self.config.train.batch_size,
            self.config.seed,
            position=position,
            mixing=self.data.mixing,
            own=own,
        )

    def step_flops(self, shape: Shape) -> int:
        """The least FLOPs of a step on a batch of a shape."""
        return run_step_flops(self.config, self.model_config, shape)

    def validate(self, trainable: Any, frozen: Any) -> tuple[dict[str, float], float]:
        """The validation metrics of every task, by full name, and their mean."""
        return self._evaluate("validation", trainable, frozen)

    @property
    def has_test(self) -> bool:
        """Whether the best prompt is scored once more at the end."""
        return bool(self.transfer) or any("test" in splits for splits in self.data.splits)

    def test(self, trainable: Any, frozen: Any) -> dict[str, float]:
        """The metrics of the test splits, and those of the tasks of `evaluate_on`."""
        named: dict[str, float] = {}
        if any("test" in splits for splits in self.data.splits):
            named |= self._evaluate("test", trainable, frozen)[0]
        for task, split in zip(self.transfer, self.data.transfer, strict=True):
            renamed = rename_labels(self.name, task.name)
            metrics = self.evaluator(trainable, frozen, task, split, renamed)
            named |= _placed(f"evaluate_on/{task.name}", metrics)
        return named

    def _evaluate(self, name: str, trainable: Any, frozen: Any) -> tuple[dict[str, float], float]:
        """The metrics of every task that has the split, by full name, and their mean."""
        named, values = {}, []
        for number, (task, splits) in enumerate(zip(self.tasks, self.data.splits, strict=True)):
            if name in splits:
                split = splits[name]
                if name == "validation":
                    split = split.first(self.config.train.evaluate_examples)
                own = partition.of_task(trainable, number)
                metrics = self.evaluator(own, frozen, task, split)
                named |= _placed(f"{name}/{task.name}" if len(self.tasks) > 1 else name, metrics)
                values.append(task.main_value(metrics))
        mean = sum(values) / len(values) if values else float("nan")
        if len(self.tasks) > 1:
            named[f"{name}/mean"] = mean
        return named, mean


def _placed(place: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return {f"{place}/{metric}": value for metric, value in metrics.items()}
