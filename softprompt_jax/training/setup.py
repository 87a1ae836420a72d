"""From a config to the parts of a run: its task, its tokens, its prompt's start.

What can be refused before the model's weights are read is refused here.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from softprompt_jax.config import RunConfig, TaskOptions
from softprompt_jax.data import TokenizedExamples, tokenize_pairs
from softprompt_jax.errors import UserError
from softprompt_jax.models import LanguageModel
from softprompt_jax.models.families import build_module
from softprompt_jax.prompts import PromptedModel, SoftPrompt, initializers
from softprompt_jax.prompts.soft_prompt import load_vectors
from softprompt_jax.tasks import Task, get_task
from softprompt_jax.training import parallel, partition
from softprompt_jax.training.optimizers import make_optimizer
from softprompt_jax.training.step import TrainState, init_state, make_train_step


@dataclasses.dataclass(frozen=True)
class Split:
    """One split, ready to be batched: its tokens, and its target texts for the metrics."""

    examples: TokenizedExamples
    targets: list[str]

    def first(self, count: int | None) -> "Split":
        """The first examples; None: all."""
        if count is None or count >= len(self.examples):
            return self
        return Split(self.examples.first(count), self.targets[:count])


def task_from_options(options: TaskOptions) -> Task:
    """The built-in task of this name, or the one made of the user's files.

    Raises:
        UserError: there is no such task, or its files do not make one.
    """
    asked: dict[str, Any] = {"evaluation": options.evaluation}
    files = ("train_file", "validation_file", "test_file", "input_template", "labels")
    if any(getattr(options, name) is not None for name in files):
        for name in (*files, "input_column", "target_column"):
            asked[name] = getattr(options, name)
    return get_task(options.name, **asked)


def tokenize_split(
    options: TaskOptions, task: Task, name: str, tokenizer: Any, config: Any
) -> Split:
    """One split of a task, as training and evaluation read it."""
    pairs = [
        pair
        for example in task.split(name)
        for pair in task.text_pairs(example, task_prefix=options.task_prefix)
    ]
    examples = tokenize_pairs(
        pairs,
        tokenizer,
        config,
        options.max_input_length,
        options.max_target_length,
        task.truncate,
        keep_suffix=task.input_suffix,
        labels=task.labels,
    )
    return Split(examples, [target for _, target in pairs])


def check_prompt(config: RunConfig, model_config: Any, task: Task) -> None:
    """Finds a prompt that cannot start before the model's weights are read."""
    if config.prompt.init == "class_labels":
        initializers.check_labels(config.prompt.length, task.labels)
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


def initial_vectors(config: RunConfig, model: LanguageModel, task: Task) -> Any:
    """The prompt's start, float32 `[length, d_model]`; None for model tuning."""
    if config.train.method == "model_tuning":
        return None
    options = config.prompt
    return SoftPrompt.create(
        model,
        options.length,
        options.init,
        labels=task.labels,
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
    config: RunConfig, model: LanguageModel, task: Task, devices: Sequence[parallel.Device]
) -> Prepared:
    """Splits model and prompt, and wraps the step; training and its benchmark share this."""
    options = config.train
    prompted = PromptedModel(model.module, initial_vectors(config, model, task))
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
