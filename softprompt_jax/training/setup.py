"""From a config to the parts of a run: its tasks, its prompt's start, its step.

What can be refused before the model's weights are read is refused here.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from softprompt_jax.config import BaseConfig, RunConfig, TaskOptions
from softprompt_jax.config_checks import COLUMNS, FILE_OPTIONS, has_files, parse_mixture
from softprompt_jax.errors import UserError
from softprompt_jax.exchange import read_prompt
from softprompt_jax.models import LanguageModel
from softprompt_jax.models.blocks import Remat, set_attention, set_remat
from softprompt_jax.models.families import ModelConfig, build_module, parameter_count
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.models.stacking import stack_blocks
from softprompt_jax.prompts import PromptedModel, SoftPrompt, initializers
from softprompt_jax.prompts.reparameterizations import reparameterize
from softprompt_jax.prompts.soft_prompt import load_vectors
from softprompt_jax.tasks import Task, get_task
from softprompt_jax.tasks.task import takes
from softprompt_jax.training import partition
from softprompt_jax.training.objectives import Distillation, Objectives, Wayward, label_sets
from softprompt_jax.training.optimizers import (
    NETWORK_LEARNING_RATE,
    PREFIX_LEARNING_RATE,
    make_optimizer,
)
from softprompt_jax.training.parallel import Device, Layout, choose_layout
from softprompt_jax.training.step import TrainState, init_state, make_train_step


def tasks_from_options(options: TaskOptions, evaluate_on: Sequence[str] = ()) -> list[Task]:
    """The tasks to train on: the built-in one of this name, those of a mixture, or one of files.

    Args:
        options: of the tasks.
        evaluate_on: names of the run's other tasks, which `data_dir` may be for.

    Raises:
        UserError: there is no such task, its files do not make one, its data cannot be read here,
            or no task reads from `data_dir`.
    """
    names, asked = (options.name,), {}
    if options.mixture:
        names, _ = parse_mixture(options.mixture)
    elif has_files(options):
        asked = {name: getattr(options, name) for name in (*FILE_OPTIONS, *COLUMNS)}
    tasks = [_get_task(name, options, asked) for name in names]
    readers = [name for name in (*names, *evaluate_on) if takes(name, "data_dir")]
    if options.data_dir is not None and not readers:
        raise UserError(
            f"--task.data_dir is for tasks of tensorflow-datasets, not for {', '.join(names)}; "
            "leave it out."
        )
    return tasks


def transfer_tasks(config: RunConfig) -> list[Task]:
    """The tasks of `evaluate_on`.

    Raises:
        UserError: as `tasks_from_options`.
    """
    return [_get_task(name, config.task, {}) for name in config.evaluate_on]


def _get_task(name: str, options: TaskOptions, asked: dict[str, Any]) -> Task:
    data_dir = options.data_dir if takes(name, "data_dir") else None
    task = get_task(name, evaluation=options.evaluation, data_dir=data_dir, **asked)
    if task.check is not None:
        task.check()
    return task


def start_words(tasks: Sequence[Task]) -> tuple[str, ...]:
    """What a prompt with init="class_labels" starts from: labels, else the tasks' own words."""
    words = [word for task in tasks for word in task.labels or task.init_words]
    return tuple(dict.fromkeys(words))


def check_prompt(config: RunConfig, model_config: ModelConfig, tasks: Sequence[Task]) -> None:
    """Finds a prompt that cannot start before the model's weights are read."""
    if config.prompt.init == "class_labels":
        initializers.check_labels(config.prompt.length, start_words(tasks))
    elif config.prompt.init == "file":
        load_vectors(config.prompt.file or "", config.prompt.length, model_config)
    load_teachers(config, model_config)


def check_positions(config: RunConfig, model_config: Any) -> None:
    """Finds lengths that the model has no positions for before its weights are read."""
    limit = model_config.max_positions
    if limit is None:
        return
    prompt = config.prompt.length if config.train.method == "prompt_tuning" else 0
    beside = prompt + config.task.max_target_length
    longest = beside + config.task.max_input_length
    if longest > limit:
        room = limit - beside
        mend = f"lower --task.max_input_length to {room}"
        if room < 1:
            mend = "use a shorter prompt or shorter targets (--task.max_target_length)"
        raise UserError(
            f"Prompt, input and target may have {longest} tokens together, but "
            f"{config.model.name} reads {limit} at most; {mend}."
        )


def check_loss(config: RunConfig, tasks: Sequence[Task]) -> None:
    """Finds a loss among labels that a task does not have."""
    for task in tasks:
        if config.train.loss == "labels" and task.evaluation != "score":
            raise UserError(
                f"Task {task.name} is not judged by its likeliest label, so there is no loss among "
                "labels; leave out --train.loss labels."
            )


def check_freeze(config: BaseConfig, model_config: Any) -> None:
    """Finds patterns that freeze nothing, or everything, before the model's weights are read."""
    if not config.train.freeze:
        return
    stacked = resolve_scan(config)

    def build() -> PromptedModel:
        # The weights settle whether the head is tied; until then it counts as a parameter.
        module = build_module(
            dataclasses.replace(model_config, tied=False), dtype=jnp.float32, rngs=nnx.Rngs(0)
        )
        vectors = None
        if isinstance(config, RunConfig):
            vectors = jnp.zeros((config.prompt.length, model_config.d_model))
        return PromptedModel(stack_blocks(module) if stacked else module, vectors)

    try:
        partition.check_freeze(nnx.eval_shape(build), config.train.method, config.train.freeze)
    except UserError as error:
        if not stacked:
            raise
        raise UserError(
            f"{error} The layers are stacked, for --train.scan_layers or --train.remat; "
            "--train.scan_layers False gives each its own paths."
        ) from None


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


class Parts(NamedTuple):
    """A model with its prompt, split into what is trained and what is not.

    Attributes:
        graphdef: of the `PromptedModel`.
        is_trained: the filter that split it.
        trainable: the trained state.
        frozen: the frozen state.
        optimizer: of the trained state.
        step: the pure step, for the layout.
    """

    graphdef: Any
    is_trained: partition.Filter
    trainable: nnx.State
    frozen: nnx.State
    optimizer: optax.GradientTransformation
    step: Callable[..., Any]


def parameterized(config: RunConfig, vectors: Any, tasks: int, module: Any = None) -> Any:
    """What a `PromptedModel` is to train, of the prompt's start; None for model tuning.

    Args:
        config: the run.
        vectors: the prompt's start.
        tasks: how many there are.
        module: the model, whose keys and values a prefix starts from.

    Raises:
        UserError: a prefix without a model.
    """
    if vectors is None:
        return None
    options = config.prompt
    if options.parameterization == "prefix" and module is None:
        raise UserError("A prefix takes its shape from a model; choose another parameterization.")
    # Apart from the draws of the vectors, which use the seed itself.
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    return reparameterize(
        options.parameterization,
        vectors,
        key,
        hidden=options.hidden_size,
        layer_norm=options.layer_norm,
        separate=options.separate_networks,
        tasks=tasks,
        positions=config.task.max_input_length,
        rank=options.rank,
        model=module,
    )


def objectives_of(
    config: RunConfig, model: LanguageModel, tasks: Sequence[Task], layout: Layout
) -> Objectives:
    """What the run's step makes small.

    Raises:
        UserError: as `load_teachers` and `label_sets`.
    """
    labels = None
    if config.train.loss == "labels":
        prefix = config.task.target_prefix
        said = [[prefix + label for label in task.labels] for task in tasks]
        labels = label_sets(said, model.tokenizer, model.config)
    return Objectives(
        z_loss=config.train.z_loss,
        labels=labels,
        wayward=wayward_objective(config, model, layout),
        distillation=load_teachers(config, model.config),
    )


def wayward_objective(config: RunConfig, model: LanguageModel, layout: Layout) -> Wayward | None:
    """What draws the prompt to a text, if the run asks for it."""
    options = config.prompt
    if options.wayward_text is None:
        return None
    target = initializers.text(model, options.length, options.wayward_text)
    # A constant of the step, which must not lie on some devices only.
    return Wayward(np.asarray(jax.device_put(target, layout.replicated)), options.wayward_gamma)


def load_teachers(config: RunConfig, model_config: Any) -> Distillation | None:
    """What a multitask prompt is distilled from, if the run asks for it.

    Raises:
        UserError: a teacher is missing or damaged, of another model, or of another length than the
            first.
    """
    options = config.prompt
    if not options.teachers:
        return None
    teachers = [read_prompt(folder) for folder in options.teachers]
    for folder, teacher in zip(options.teachers, teachers, strict=True):
        teacher.check_fits(model_config, config.model.name)
        if teacher.length != teachers[0].length:
            raise UserError(
                f"The teacher {folder} has {teacher.length} positions, but the first has "
                f"{teachers[0].length}; give --prompt.teachers of one length."
            )
    vectors = np.stack([np.asarray(teacher.vectors) for teacher in teachers])
    return Distillation(vectors, options.distillation_weight)


def take_apart(
    config: BaseConfig,
    prompted: PromptedModel,
    layout: Layout,
    objectives: Objectives | None = None,
) -> Parts:
    """Splits a model and its prompt, which may be abstract, and builds the step for it.

    Args:
        config: the run.
        prompted: the model with its prompt.
        layout: of the devices.
        objectives: of the step; None: the loss of target tokens.
    """
    options = config.train
    # Now that the weights have told whether the head is tied.
    partition.check_freeze(prompted, options.method, options.freeze)
    is_trained = partition.trainable_filter(options.method, options.freeze)
    graphdef, trainable, frozen = partition.split(prompted, is_trained)
    rate = None
    if isinstance(config, RunConfig) and config.prompt.parameterization != "plain":
        prefix = config.prompt.parameterization == "prefix"
        default = PREFIX_LEARNING_RATE if prefix else NETWORK_LEARNING_RATE
        rate = config.prompt.network_learning_rate or default
    optimizer = partition.masked(
        make_optimizer(config.optimizer, options.method, options.steps, rate), is_trained
    )
    step = make_train_step(
        graphdef,
        optimizer,
        accumulation=options.accumulation,
        dropout_rate=config.model.dropout_rate,
        objectives=objectives or Objectives(z_loss=options.z_loss),
        axis=layout.axis,
    )
    return Parts(graphdef, is_trained, trainable, frozen, optimizer, step)


class Prepared(NamedTuple):
    """A run's step and what it works on, placed on the devices.

    Attributes:
        graphdef: of the `PromptedModel`.
        is_trained: the filter that split it.
        frozen: the frozen state.
        state: the state before the first step.
        train_step: the compiled step; it is given `state` to overwrite.
    """

    graphdef: Any
    is_trained: partition.Filter
    frozen: nnx.State
    state: TrainState
    train_step: Callable[..., Any]

    def folding(self, layout: Layout) -> partition.Folding:
        """From the trained state to what is evaluated and kept."""
        return partition.Folding(self.graphdef, self.state.trainable, self.frozen, layout)


def prepare_step(
    config: RunConfig, model: LanguageModel, tasks: Sequence[Task], layout: Layout
) -> Prepared:
    """Places model and prompt, and wraps the step; training and its benchmark share this."""
    vectors = initial_vectors(config, model, tasks)
    prompt = parameterized(config, vectors, len(tasks), model.module)
    objectives = objectives_of(config, model, tasks, layout)
    return place(config, PromptedModel(model.module, prompt), layout, objectives)


def place(
    config: BaseConfig,
    prompted: PromptedModel,
    layout: Layout,
    objectives: Objectives | None = None,
) -> Prepared:
    """As `prepare_step`, for a model that has its prompt, or none, already."""
    parts = take_apart(config, prompted, layout, objectives)
    frozen = layout.place_frozen(parts.frozen)
    state = layout.place_state(init_state(parts.trainable, parts.optimizer, config.seed))
    train_step = layout.step(parts.step, state)
    return Prepared(parts.graphdef, parts.is_trained, frozen, state, train_step)


def run_layout(
    config: BaseConfig, model_config: ModelConfig, devices: Sequence[Device] | None = None
) -> Layout:
    """The layout of a run, chosen by the size of its model.

    Args:
        config: the run.
        model_config: of the model.
        devices: to choose from; None: those of this job.

    Raises:
        UserError: as `choose_layout`.
    """
    options = config.train
    platform = (jax.devices() if devices is None else devices)[0].platform
    width = 2 if resolve_dtype(config, platform) == "bfloat16" else 4
    return choose_layout(
        config.parallel,
        options.batch_size,
        options.accumulation,
        weight_bytes=width * parameter_count(model_config),
        devices=devices,
    )


def load_placed(config: BaseConfig, files: ModelFiles, layout: Layout) -> LanguageModel:
    """Reads the weights straight to where the layout has them, in the form that the step runs.

    Raises:
        UserError: as `load_model`.
    """
    model = files.load(
        resolve_dtype(config, layout.platform),
        sharding_of=layout.sharding,
        stacked=resolve_scan(config),
    )
    set_memory(config, model.module, layout)
    return model


def set_memory(config: BaseConfig, module: nnx.Module, layout: Layout) -> None:
    """Sets how a model, which may be abstract, spends memory on a run's devices."""
    remat = resolve_remat(config, layout.platform)
    set_remat(module, remat)
    if layout.platform == "cpu" and layout.axis is not None and remat == "none":
        set_attention(module, "by_row")


def resolve_dtype(config: BaseConfig, platform: str) -> str:
    """The dtype of the model's weights, "auto" resolved for a platform."""
    if config.model.dtype != "auto":
        return config.model.dtype
    tuned = config.train.method == "model_tuning"
    return "float32" if platform == "cpu" or tuned else "bfloat16"


def resolve_remat(config: BaseConfig, platform: str) -> Remat:
    """What is computed anew in the backward pass, "auto" resolved for a platform.

    On CPU memory is plenty and computing is not; elsewhere reading attention weights back takes
    longer than computing them.
    """
    if config.train.remat != "auto":
        return config.train.remat
    return "none" if platform == "cpu" else "attention"


def resolve_scan(config: BaseConfig) -> bool:
    """Whether layers are stacked and looped over."""
    if config.train.scan_layers is not None:
        return config.train.scan_layers
    return config.train.remat in ("dots", "full")
