"""The optimizers: the paper's Adafactor, a general Adafactor and AdamW, with their schedules."""

import dataclasses
from collections.abc import Hashable
from typing import Any

import jax.numpy as jnp
import optax
from flax import nnx

from softprompt_jax.config import OptimizerOptions
from softprompt_jax.prompts.prompted_model import PromptNetwork

PROMPT_LEARNING_RATE = 0.3  # Lester et al. 2021, section 3
MODEL_LEARNING_RATE = 1e-3  # the same, for the model-tuning baselines
NETWORK_LEARNING_RATE = 1e-3  # of weights that make a prompt: they are a model's, not a prompt's
PREFIX_LEARNING_RATE = 1e-2  # of keys and values; with 1e-3 they hardly move in some dozen steps


def learning_rate(options: OptimizerOptions, method: str) -> float:
    """The peak learning rate: the given one, or the paper's for the method."""
    if options.learning_rate is not None:
        return options.learning_rate
    return MODEL_LEARNING_RATE if method == "model_tuning" else PROMPT_LEARNING_RATE


def make_schedule(options: OptimizerOptions, method: str, steps: int) -> optax.Schedule:
    """Learning rate by step: warm-up from 0, then the schedule's course.

    With inverse_sqrt it is peak * sqrt(warm-up steps / step), as in T5's pre-training (Raffel et
    al. 2020, section 3.1.2: 1 / sqrt(max(step, 10000))).
    """
    peak = learning_rate(options, method)
    decay_steps = max(steps - options.warmup_steps, 1)
    if options.schedule == "constant":
        schedule = optax.constant_schedule(peak)
    elif options.schedule == "cosine":
        schedule = optax.cosine_decay_schedule(peak, decay_steps)
    elif options.schedule == "inverse_sqrt":
        schedule = _inverse_sqrt(peak, max(options.warmup_steps, 1))
    else:
        schedule = optax.linear_schedule(peak, 0.0, decay_steps)
    if not options.warmup_steps:
        return schedule
    # The step counter starts at 0; rising from 1/n makes the first step count.
    first = peak / options.warmup_steps
    warmup = optax.linear_schedule(first, peak, options.warmup_steps - 1)
    return optax.join_schedules([warmup, schedule], [options.warmup_steps])


def _inverse_sqrt(peak: float, start: int) -> optax.Schedule:
    return lambda count: peak * jnp.sqrt(start / (start + jnp.asarray(count, jnp.float32)))


def make_optimizer(
    options: OptimizerOptions, method: str, steps: int, network_rate: float | None = None
) -> optax.GradientTransformation:
    """The optimizer of a run.

    `lester_adafactor` is the paper's: learning rate 0.3 without parameter scaling, second-moment
    decay 1 - t^-0.8, update clipping at 1.0, no momentum, and a weight decay of 1e-5 a step that
    the learning rate does not multiply. The second moment is factored where both dimensions are at
    least 128, so a prompt of 100 tokens is not and one of 150 is. `step_offset` starts t later, as
    the released code does at 1,100,000, which makes the second moment an average over the whole
    past instead of a recent one.

    Args:
        options: of the run.
        method: "prompt_tuning" or "model_tuning", for the default rate.
        steps: of the run, for the schedule.
        network_rate: peak learning rate of `PromptNetwork` parameters; None: that of the others.

    References:
        Lester, Al-Rfou, Constant 2021, section 3; Shazeer and Stern 2018, "Adafactor";
        google-research/prompt-tuning and T5X for what the paper leaves open.
    """
    optimizer = _make_rule(options, make_schedule(options, method, steps))
    if network_rate is not None:
        rated = dataclasses.replace(options, learning_rate=network_rate)
        of_networks = _make_rule(options, make_schedule(rated, method, steps))
        parts: dict[Hashable, Any] = {"prompt": optimizer, "network": of_networks}
        optimizer = optax.partition(parts, _parts)
    if options.max_gradient_norm is None:
        return optimizer
    return optax.chain(optax.clip_by_global_norm(options.max_gradient_norm), optimizer)


def _make_rule(options: OptimizerOptions, schedule: optax.Schedule) -> optax.GradientTransformation:
    if options.name == "adamw":
        return optax.adamw(schedule, weight_decay=options.weight_decay)
    return optax.adafactor(
        schedule,
        multiply_by_parameter_scale=options.name == "adafactor",
        decay_rate=0.8,
        decay_offset=-options.step_offset,
        clipping_threshold=1.0,
        momentum=None,
        weight_decay_rate=options.weight_decay,
    )


def _parts(state: nnx.State) -> Any:
    """Whether each parameter is of the prompt or of a network that makes it."""

    def part(_: Any, variable: Any) -> str:
        kind = getattr(variable, "type", type(variable))
        return "network" if issubclass(kind, PromptNetwork) else "prompt"

    return nnx.map_state(part, state)
