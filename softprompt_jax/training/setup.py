"""From a config to the parts of a run: its tasks, its prompt's start, its step.

What can be refused before the model's weights are read is refused here.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from softprompt_jax.config import RunConfig, TaskOptions, parse_mixture
from softprompt_jax.errors import UserError
from softprompt_jax.models import LanguageModel
from softprompt_jax.models.families import build_module
from softprompt_jax.prompts import PromptedModel, SoftPrompt, initializers
from softprompt_jax.prompts.soft_prompt import load_vectors
from softprompt_jax.tasks import Task, get_task
from softprompt_jax.training import parallel, partition
from softprompt_jax.training.optimizers import make_optimizer
from softprompt_jax.training.step import TrainState, init_state, make_train_step


def tasks_from_options(options: TaskOptions) -> list[Task]:
    """The tasks to train on: the built-in one of this name, those of a mixture, or one of files.

    Raises:
        UserError: there is no such task, its files do not make one, or its data cannot be read
            here.
    """
    asked: dict[str, Any] = {"evaluation": options.evaluation, "data_dir": options.data_dir}
    if options.mixture:
        names, _ = parse_mixture(options.mixture)
        return [_get_task(name, asked) for name in names]
    files = ("train_file", "validation_file", "test_file")
    extras = ("input_template", "text_column", "answer_separator", "labels", "metrics")
    if any(getattr(options, name) is not None for name in (*files, *extras)):
        for name in (*files, *extras, "input_column", "target_column"):
            asked[name] = getattr(options, name)
    return [_get_task(options.name, asked)]


def transfer_tasks(config: RunConfig) -> list[Task]:
    """The tasks of `evaluate_on`.

    Raises:
        UserError: as `tasks_from_options`.
    """
    options = config.task
    asked = {"evaluation": options.evaluation, "data_dir": options.data_dir}
    return [_get_task(name, asked) for name in config.evaluate_on]


def _get_task(name: str, options: dict[str, Any]) -> Task:
    task = get_task(name, **options)
    if task.check is not None:
        task.check()
    return task


def start_words(tasks: Sequence[Task]) -> tuple[str, ...]:
    """What a prompt with init="class_labels" starts from: labels, else the tasks' own words."""
    words = [word for task in tasks for word in task.labels or task.init_words]
    return tuple(dict.fromkeys(words))


def check_prompt(config: RunConfig, model_config: Any, tasks: Sequence[Task]) -> None:
    """Finds a prompt that cannot start before the model's weights are read."""
    if config.prompt.init == "class_labels":
        initializers.check_labels(config.prompt.length, start_words(tasks))
    elif config.prompt.init == "file":
        load_vectors(config.prompt.file or "", config.prompt.length, model_config)
    limit = model_config.max_positions
    if limit is not None and model_config.family == "gpt2":
        longest = config.prompt.length + config.task.max_input_length
        longest += config.task.max_target_length
        if longest > limit:
            raise UserError(
                f"Prompt, input and target may have {longest} tokens together, but "
                f"{config.model.name} reads {limit} at most; lower --task.max_input_length to "
                f"{limit - config.prompt.length - config.task.max_target_length}."
            )


def check_freeze(config: RunConfig, model_config: Any) -> None:
    """Finds patterns that freeze nothing, or everything, before the model's weights are read."""

    def build() -> PromptedModel:
        # The weights settle whether the head is tied; until then it counts as a parameter.
        module = build_module(
            dataclasses.replace(model_config, tied=False), dtype=jnp.float32, rngs=nnx.Rngs(0)
        )
        return PromptedModel(module, jnp.zeros((config.prompt.length, model_config.d_model)))

    partition.check_freeze(nnx.eval_shape(build), config.train.method, config.train.freeze)


def initial_vectors(config: RunConfig, model: LanguageModel, tasks: Sequence[Task]) -> Any:
    """The prompt's start, float32 `[length, d_model]`; None for model tuning."""
    if config.train.method == "model_tuning":
        return None
    options = config.prompt
    return SoftPrompt.create(
        model,
        options.length,
        options.init,
        labels=start_words(tasks),
        text=options.text,
        file=options.file,
        vocab=options.vocab,
        uniform_range=options.uniform_range,
        seed=config.seed,
    ).vectors


class Prepared(NamedTuple):
    """A run's step and what it works on, placed on the devices.

    Attributes:
        graphdef: of the `PromptedModel`.
        is_trained: the filter that split it.
        frozen: the frozen state.
        state: the state before the first step.
        train_step: the mapped step; it is given `state` to overwrite.
    """

    graphdef: Any
    is_trained: partition.Filter
    frozen: nnx.State
    state: TrainState
    train_step: Callable[..., Any]


def prepare_step(
    config: RunConfig,
    model: LanguageModel,
    tasks: Sequence[Task],
    devices: Sequence[parallel.Device],
) -> Prepared:
    """Splits model and prompt, and wraps the step; training and its benchmark share this."""
    options = config.train
    prompted = PromptedModel(model.module, initial_vectors(config, model, tasks))
    is_trained = partition.trainable_filter(options.method, options.freeze)
    graphdef, trainable, frozen = partition.split(prompted, is_trained)
    optimizer = partition.masked(
        make_optimizer(config.optimizer, options.method, options.steps), is_trained
    )
    frozen = parallel.replicate(frozen, devices)
    state = parallel.replicate(init_state(trainable, optimizer, config.seed), devices)
    train_step = parallel.pmap_step(
        make_train_step(
            graphdef,
            optimizer,
            accumulation=options.accumulation,
            dropout_rate=config.model.dropout_rate,
            z_loss=options.z_loss,
            axis=parallel.AXIS,
        ),
        devices,
    )
    return Prepared(graphdef, is_trained, frozen, state, train_step)


def resolve_dtype(config: RunConfig) -> str:
    """The dtype of the model's weights, "auto" resolved for this machine."""
    if config.model.dtype != "auto":
        return config.model.dtype
    on_cpu = jax.default_backend() == "cpu"
    return "float32" if on_cpu or config.train.method == "model_tuning" else "bfloat16"
