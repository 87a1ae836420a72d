"""Values that no run can have, refused before any work starts."""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal

from softprompt_jax.config import BaseConfig, RunConfig, TaskOptions, flatten
from softprompt_jax.errors import UserError


def check(config: BaseConfig) -> None:
    """Refuses values that no run can have, before any work starts.

    Raises:
        UserError: names the option, its value and what it may be.
    """
    check_types(config)
    values = flatten(config)
    for name, least in (
        ("prompt.length", 1),
        ("prompt.hidden_size", 1),
        ("prompt.rank", 1),
        ("task.max_input_length", 1),
        ("task.max_target_length", 1),
        ("task.train_examples", 1),
        ("task.mixture_limit", 1),
        ("optimizer.warmup_steps", 0),
        ("optimizer.weight_decay", 0),
        ("optimizer.step_offset", 0),
        ("train.steps", 1),
        ("train.batch_size", 1),
        ("train.accumulation", 1),
        ("train.z_loss", 0),
        ("train.max_shapes", 1),
        ("train.evaluate_every", 1),
        ("train.evaluate_examples", 1),
        ("train.evaluate_batch_size", 1),
        ("train.patience", 1),
        ("train.checkpoint_every", 1),
        ("train.log_every", 1),
        ("parallel.devices", 1),
        ("parallel.data", 1),
        ("parallel.fsdp", 1),
        ("parallel.tensor", 1),
        ("parallel.processes", 1),
        ("parallel.process", 0),
        ("profile", 1),
        ("seed", 0),
    ):
        value = values.get(name)  # None too where this kind of config has no such option
        if value is not None and not value >= least:
            raise UserError(f"--{name} is {value}; it must be at least {least}.")
    if config.seed >= 2**32:
        raise UserError(f"--seed is {config.seed}; it must be below 2**32.")
    for name in (
        *("optimizer.learning_rate", "optimizer.max_gradient_norm"),
        "train.checkpoint_minutes",
    ):
        value = values[name]
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name} is {value}; it must be a positive number.")
    if min(config.train.keep_steps, default=0) < 0:
        raise UserError(f"--train.keep_steps has {min(config.train.keep_steps)}; steps start at 0.")
    if max(config.train.keep_steps, default=0) > config.train.steps:
        raise UserError(
            f"--train.keep_steps has {max(config.train.keep_steps)}, but the run ends at step "
            f"{config.train.steps}; raise --train.steps, or leave that step out."
        )
    if not 0 <= config.model.dropout_rate < 1:
        raise UserError(
            f"--model.dropout_rate is {config.model.dropout_rate}; it must be in [0, 1)."
        )
    if config.optimizer.name == "adamw" and config.optimizer.learning_rate is None:
        raise UserError("adamw has no default learning rate; give --optimizer.learning_rate.")
    if config.train.method == "model_tuning" and config.model.dtype == "bfloat16":
        raise UserError(
            "model_tuning trains float32 weights, since bfloat16 loses small updates; leave out "
            "--model.dtype bfloat16."
        )
    for pattern in config.train.freeze:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(
                f"--train.freeze has the bad regular expression {pattern!r} ({error}); mend it."
            ) from None
    if config.train.loss == "labels":
        _check_label_loss(config)
    if isinstance(config, RunConfig):
        _check_prompt(config)
        _check_parameterization(config)
        _check_task(config.task)
    for name, value in values.items():
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, float) and not math.isfinite(each):
                raise UserError(f"--{name} has {each}; it must be a finite number.")


def _check_label_loss(config: BaseConfig) -> None:
    if not isinstance(config, RunConfig):
        raise UserError("Plain text has no labels; leave out --train.loss labels.")
    for name, is_given in (
        ("model.dropout_rate", config.model.dropout_rate > 0),
        ("train.z_loss", config.train.z_loss > 0),
        ("prompt.teachers", bool(config.prompt.teachers)),
    ):
        if is_given:
            raise UserError(
                f"--{name} is of the loss over the vocabulary; leave it or --train.loss labels out."
            )


def _check_prompt(config: RunConfig) -> None:
    low, high = config.prompt.uniform_range
    if not low < high:
        raise UserError(f"--prompt.uniform_range is {low} to {high}; the first must be smaller.")
    tuned = config.train.method == "model_tuning"
    for init, value in (("text", config.prompt.text), ("file", config.prompt.file)):
        if config.prompt.init != init and value is not None:
            raise UserError(f"--prompt.{init} is for --prompt.init {init}; give both or neither.")
        if config.prompt.init == init and not tuned and not (value or "").strip():
            raise UserError(f"--prompt.init {init} needs --prompt.{init}; give it.")


def _check_parameterization(config: RunConfig) -> None:
    options = config.prompt
    kind, rate = options.parameterization, options.network_learning_rate
    if rate is not None and not 0 < rate < float("inf"):
        raise UserError(f"--prompt.network_learning_rate is {rate}; it must be a positive number.")
    if rate is not None and kind == "plain":
        raise UserError(
            "--prompt.network_learning_rate is of a --prompt.parameterization; a plain prompt has "
            "--optimizer.learning_rate only; leave it out."
        )
    if not 0 <= options.wayward_gamma < float("inf"):
        raise UserError(f"--prompt.wayward_gamma is {options.wayward_gamma}; it must be 0 or more.")
    if not 0 <= options.distillation_weight < float("inf"):
        raise UserError(
            f"--prompt.distillation_weight is {options.distillation_weight}; it must be 0 or more."
        )
    if options.teachers and (
        kind != "multitask" or len(options.teachers) != len(config.task.mixture)
    ):
        raise UserError(
            "--prompt.teachers are for --prompt.parameterization multitask, one for each task of "
            "--task.mixture; give as many, or leave them out."
        )
    if options.wayward_text is not None and not options.wayward_text.strip():
        raise UserError("--prompt.wayward_text is empty; give it a text or leave it out.")
    if config.train.method == "model_tuning":
        if kind != "plain" or options.wayward_text is not None:
            name = "parameterization" if kind != "plain" else "wayward_text"
            raise UserError(f"model_tuning has no prompt; leave out --prompt.{name}.")
        return
    if kind != "plain" and config.train.freeze:
        raise UserError(
            f"--train.freeze is not for the parts of a prompt; leave it out with "
            f"--prompt.parameterization {kind}."
        )
    if kind in ("dept", "prefix") and options.wayward_text is not None:
        raise UserError(
            f"--prompt.wayward_text draws vectors to a text, but a {kind} prompt is more than "
            "vectors; leave it out."
        )
    if kind == "prefix" and (config.train.scan_layers or config.train.remat in ("dots", "full")):
        raise UserError(
            "--prompt.parameterization prefix is for layers that neither loop nor are computed "
            "anew; leave out --train.scan_layers and --train.remat."
        )
    if kind == "multitask" and len(config.task.mixture) < 2:
        raise UserError(
            "--prompt.parameterization multitask needs two tasks or more; give --task.mixture."
        )
    if kind == "multitask" and config.evaluate_on:
        raise UserError(
            "--evaluate_on scores one prompt, but a multitask prompt has one a task; leave it out."
        )


def parse_mixture(mixture: Sequence[str]) -> tuple[tuple[str, ...], tuple[float, ...] | None]:
    """The tasks of a mixture, and their rates where they are given.

    Raises:
        UserError: a rate is no positive number, only some tasks have one, or one comes twice.
    """
    names, rates = [], []
    for part in mixture:
        name, equals, rate = part.partition("=")
        names.append(name)
        if not equals:
            continue
        try:
            rates.append(float(rate))
        except ValueError:
            rates.append(0.0)
        if not 0 < rates[-1] < float("inf"):
            raise UserError(f"--task.mixture has {part!r}; a rate is a positive number.")
    if len(set(names)) < len(names):
        raise UserError(f"--task.mixture names a task twice: {', '.join(names)}; name it once.")
    if rates and len(rates) < len(names):
        raise UserError(
            f"--task.mixture has rates for {len(rates)} of {len(names)} tasks; give all or none."
        )
    return tuple(names), tuple(rates) or None


# Of a task of files; the columns have defaults, so they alone do not tell that it is one.
FILE_OPTIONS = (
    *("train_file", "validation_file", "test_file", "input_template", "text_column"),
    *("answer_separator", "labels", "metrics"),
)
COLUMNS = ("input_column", "target_column")


def has_files(options: TaskOptions) -> bool:
    """Whether the task is one of files, or is at least asked for as one."""
    return any(getattr(options, name) is not None for name in FILE_OPTIONS)


def _check_task(options: TaskOptions) -> None:
    _, rates = parse_mixture(options.mixture)
    if options.mixture_limit is not None and (rates or not options.mixture):
        raise UserError(
            "--task.mixture_limit bounds the tasks of a --task.mixture without rates; leave it out."
        )
    defaults = TaskOptions()
    for name in (*FILE_OPTIONS, *COLUMNS):
        if getattr(options, name) == getattr(defaults, name):
            continue
        if options.mixture:
            raise UserError(
                f"--task.mixture mixes built-in tasks; leave out --task.{name}, or register your "
                "own task in Python."
            )
        if not has_files(options):
            raise UserError(
                f"--task.{name} is of a task of files; leave it out, or give --task.train_file."
            )


def check_types(config: Any, prefix: str = "") -> None:
    """Refuses values of other types: a recipe and Python code can hold anything."""
    for name, hint in typing.get_type_hints(type(config)).items():
        value = getattr(config, name)
        if not _fits(value, hint):
            wanted = "fields" if dataclasses.is_dataclass(hint) else _describe(hint)
            raise UserError(f"--{prefix}{name} is {value!r}; it must be {wanted}.")
        if dataclasses.is_dataclass(value):
            check_types(value, f"{prefix}{name}.")


def _fits(value: Any, hint: Any) -> bool:
    kind, of = typing.get_origin(hint), typing.get_args(hint)
    if kind is Literal:
        return value in of
    if kind in (types.UnionType, typing.Union):
        return any(_fits(value, each) for each in of)
    if kind is tuple:
        if not isinstance(value, tuple):
            return False
        each = of[:1] * len(value) if of[-1] is ... else of
        return len(value) == len(each) and all(map(_fits, value, each))
    if hint in (int, float):
        numbers = (int,) if hint is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    """A type as people write it: "text or None", "one of adamw, adafactor"."""
    kind, of = typing.get_origin(hint), typing.get_args(hint)
    if kind is Literal:
        return f"one of {', '.join(of)}"
    if kind in (types.UnionType, typing.Union):
        return " or ".join(map(_describe, of))
    if kind is tuple:
        return f"a tuple ({', '.join('...' if each is ... else _describe(each) for each in of)})"
    names = {int: "a whole number", float: "a number", str: "text", bool: "True or False"}
    return names.get(hint, "None")
