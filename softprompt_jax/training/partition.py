"""Which parameters are trained: one filter decides the split and the optimizer's mask.

What is trained need not be what is kept: `Folding` goes from the one to the other.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax
from flax import nnx

from softprompt_jax.errors import UserError
from softprompt_jax.prompts.prompted_model import Prompt, PromptedModel
from softprompt_jax.prompts.reparameterizations import Reparameterization
from softprompt_jax.training.parallel import Layout

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
    if not freeze:
        return
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


class Folding:
    """From what is trained to what is evaluated and kept: the prompt's plain vectors.

    Where the vectors (or the model's weights) themselves are trained, or the prompt is more than
    vectors, the two are the same.

    Args:
        graphdef: of the `PromptedModel` that is trained.
        trainable: its trained state, or the shapes of it.
        frozen: likewise.
        layout: of the devices.

    Attributes:
        graphdef: of a `PromptedModel` that has the folded prompt; it goes with the same frozen
            state.
    """

    def __init__(self, graphdef: Any, trainable: nnx.State, frozen: nnx.State, layout: Layout):
        prompted: Any = nnx.merge(graphdef, trainable, frozen)
        self.graphdef, self._fold = graphdef, None
        if not isinstance(prompted.prompt, Reparameterization) or not prompted.prompt.folds:
            return
        of_prompt = nnx.graphdef(prompted.prompt)

        def fold(prompt: nnx.State) -> nnx.State:
            vectors = nnx.merge(of_prompt, prompt).vectors
            return nnx.state(PromptedModel(None, vectors))

        (vectors,) = jax.tree.leaves(jax.eval_shape(fold, trainable["prompt"]))
        self.graphdef = nnx.graphdef(PromptedModel(prompted.model, vectors))
        self._fold = jax.jit(fold, out_shardings=layout.replicated)

    def __call__(self, trainable: nnx.State) -> nnx.State:
        """The trained state of the folded model, on the same devices."""
        return trainable if self._fold is None else self._fold(trainable["prompt"])


def of_task(trainable: nnx.State, number: int) -> nnx.State:
    """What a task is evaluated with: its own prompt, where each of them has one.

    Args:
        trainable: as `Folding` gives it.
        number: the task's place among those that were trained on.
    """
    prompt: Any = trainable.get("prompt")
    if not isinstance(prompt, Prompt) or prompt[...].ndim == 2:
        return trainable
    return nnx.state(PromptedModel(None, prompt[...][number]))
