"""One training step as a pure function; `parallel.py` spreads it over devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, Int

from softprompt_jax.models.layers import Dropout
from softprompt_jax.prompts.prompted_model import Batch
from softprompt_jax.training.objectives import Objectives


class TrainState(NamedTuple):
    """All that changes while training, and all that a checkpoint has to hold of the devices.

    Attributes:
        trainable: the prompt (or what else is trained), float32.
        opt_state: the optimizer's state of the trainable part only.
        step: int32 scalar, number of steps taken.
        key_data: uint32, the run's PRNG key; a step folds its number into it.
    """

    trainable: nnx.State
    opt_state: optax.OptState
    step: Int[Array, ""]
    key_data: Array


def init_state(
    trainable: nnx.State, optimizer: optax.GradientTransformation, seed: int
) -> TrainState:
    """The state before the first step."""
    return TrainState(
        trainable,
        optimizer.init(trainable),
        jnp.zeros((), jnp.int32),
        jax.random.key_data(jax.random.key(seed)),
    )


def make_train_step(
    graphdef: Any,
    optimizer: optax.GradientTransformation,
    *,
    accumulation: int = 1,
    dropout_rate: float = 0.0,
    objectives: Objectives | None = None,
    axis: str | None = None,
) -> Callable[[TrainState, nnx.State, Batch], tuple[TrainState, dict[str, Array]]]:
    """Builds `step(state, frozen, batch) -> (state, metrics)`.

    Only `state.trainable` is differentiated: no gradient of a frozen leaf is ever computed.

    Args:
        graphdef: of the `PromptedModel` that (trainable, frozen) were split from.
        optimizer: sees the trainable part only.
        accumulation: micro-batches that the batch's rows are cut into, one after the other.
        dropout_rate: inside the model; 0 for none.
        objectives: what it makes small; None: the loss of target tokens.
        axis: name of the mapped axis that rows are spread over, to sum over it; None on one device.

    Returns:
        The step. Its metrics are float32 scalars, the same on every device: `loss` (nats a target
        token), `token_accuracy` and `tokens`, or among labels `loss` (nats an example),
        `label_accuracy` and `examples`; `grad_norm` and `finite`; `wayward_distance` where the
        prompt is drawn to a text, and `distillation` (nats a target token) where there are
        teachers. The loss is without these. Where loss, gradient or update is not finite the state
        keeps its trainable and optimizer parts, so that the last good prompt survives.
    """
    objectives = objectives or Objectives()

    def sums(trainable, frozen, batch, keys_B):
        model = nnx.merge(graphdef, trainable, frozen)
        dropout = Dropout(dropout_rate, keys_B) if dropout_rate else None
        return objectives.sums(model, batch, dropout)

    grad_of_sums = jax.grad(sums, has_aux=True)

    def wayward_distance(trainable, frozen):
        return objectives.wayward_distance(nnx.merge(graphdef, trainable, frozen))

    def step(state: TrainState, frozen: nnx.State, batch: Batch):
        rows = batch["inputs"].shape[0]
        first = 0 if axis is None else jax.lax.axis_index(axis) * rows
        # One key a row: dropout does not depend on the device or micro-batch a row falls into.
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key_data), state.step)
        keys_B = jax.vmap(lambda row: jax.random.fold_in(key, row))(first + jnp.arange(rows))

        if accumulation == 1:
            grads, counts = grad_of_sums(state.trainable, frozen, batch, keys_B)
        else:
            # Each takes every n-th row, so that devices that share the rows share each of them.
            micro = jax.tree.map(
                lambda x: x.reshape(rows // accumulation, accumulation, *x.shape[1:]).swapaxes(
                    0, 1
                ),
                (dict(batch), keys_B),
            )

            def add(total, part):
                return jax.tree.map(
                    jnp.add, total, grad_of_sums(state.trainable, frozen, *part)
                ), None

            shapes = jax.eval_shape(
                grad_of_sums, state.trainable, frozen, *jax.tree.map(lambda x: x[0], micro)
            )
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
            (grads, counts), _ = jax.lax.scan(add, zeros, micro)
        if axis is not None:
            grads, counts = jax.lax.psum((grads, counts), axis)

        count = objectives.count(counts)
        grads = jax.tree.map(lambda g: g / count.astype(g.dtype), grads)
        metrics = objectives.metrics(counts)
        if objectives.wayward is not None:
            gamma = objectives.wayward.gamma
            distance, pull = jax.value_and_grad(wayward_distance)(state.trainable, frozen)
            grads = jax.tree.map(lambda g, p: g + gamma * p, grads, pull)
            metrics["wayward_distance"] = distance
        grad_norm = optax.tree.norm(grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        trainable = optax.apply_updates(state.trainable, updates)
        # The update too: after a huge one the loss is finite but the prompt is lost.
        finite = jnp.isfinite(counts["loss"]) & jnp.isfinite(grad_norm)
        finite &= jnp.isfinite(optax.tree.norm(updates))
        trainable, opt_state = jax.tree.map(
            lambda new, old: jnp.where(finite, new, old),
            (trainable, opt_state),
            (state.trainable, state.opt_state),
        )
        metrics |= {"grad_norm": grad_norm, "finite": finite.astype(jnp.float32)}
        return TrainState(trainable, opt_state, state.step + 1, state.key_data), metrics

    return step
