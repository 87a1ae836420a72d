"""Which parameters are trained: one filter decides the split and the optimizer's mask."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from flax import nnx

from softprompt_jax.errors import UserError
from softprompt_jax.prompts.prompted_model import Prompt, PromptedModel

Filter = Callable[[tuple[Any, ...], Any], bool]


def trainable_filter(method: str, freeze: Sequence[str] = ()) -> Filter:
    """The filter of a method, less what regular expressions of dotted paths freeze.

    Args:
        method: `prompt_tuning` trains `Prompt` variables, `model_tuning` every other `nnx.Param`.
        freeze: expressions searched in paths such as `model.blocks.0.attention.q.kernel`.
    """
    patterns = [re.compile(pattern) for pattern in freeze]

    def is_trained(path: tuple[Any, ...], variable: Any) -> bool:
        kind = getattr(variable, "type", type(variable))
        if not issubclass(kind, nnx.Param) or issubclass(kind, Prompt) == (
            method == "model_tuning"
        ):
            return False
        return not any(pattern.search(".".join(map(str, path))) for pattern in patterns)

    return is_trained


def split(model: PromptedModel, is_trained: Filter) -> tuple[Any, nnx.State, nnx.State]:
    """The graph definition, the trainable state and the frozen state.

    Raises:
        UserError: nothing is left to train.
    """
    graphdef, trainable, frozen = nnx.split(model, is_trained, ...)
    if not jax.tree.leaves(trainable):
        raise UserError("There is nothing left to train; loosen --train.freeze.")
    return graphdef, trainable, frozen


def check_freeze(model: PromptedModel, method: str, freeze: Sequence[str]) -> None:
    """Refuses patterns that miss every parameter, or leave none to train.

    Args:
        model: may be abstract.
        method: as for `trainable_filter`.
        freeze: likewise.

    Raises:
        UserError: names the pattern and a path as it might be.
    """
    state = split(model, trainable_filter(method))[1]
    paths = [".".join(map(str, path)) for path, _ in nnx.to_flat_state(state)]
    for pattern in freeze:
        if not any(re.search(pattern, path) for path in paths):
            raise UserError(
                f"--train.freeze {pattern} matches nothing that {method} trains, such as "
                f"{paths[0]}; mend the pattern."
            )
    split(model, trainable_filter(method, freeze))


def masked(optimizer: optax.GradientTransformation, is_trained: Filter):
    """Restricts an optimizer to the trained leaves of whatever state it is given.

    `optax.masked` alone would pass the other leaves' gradients through as their updates; here
    those leaves get an update of exactly zero and no optimizer state.
    """

    def labels(state: nnx.State) -> Any:
        return nnx.map_state(lambda path, leaf: is_trained(path, leaf), state)

    def others(state: nnx.State) -> Any:
        return nnx.map_state(lambda path, leaf: not is_trained(path, leaf), state)

    return optax.chain(optax.masked(optimizer, labels), optax.masked(optax.set_to_zero(), others))
