"""One training step as a pure function; `parallel.py` spreads it over devices."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jaxtyping import Array, ArrayLike, Float, Int

from softprompt_jax.models.layers import Dropout
from softprompt_jax.prompts.prompted_model import Batch, row_prompts, target_logits


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


class Wayward(NamedTuple):
    """An objective beside the loss: that the prompt stays near a text's embeddings.

    The step adds `gamma` times the squared distance, summed over the width and averaged over the
    positions, to the mean cross-entropy.

    Attributes:
        target: float32 `[length, d_model]`.
        gamma: weight of the squared distance.

    References:
        Khashabi et al. 2022, "Prompt Waywardness: The Curious Case of Discretized Interpretation of
        Continuous Prompts", section 3; the distance as in google-research/prompt-tuning.
    """

    target: Float[ArrayLike, "length d_model"]
    gamma: float


class Distillation(NamedTuple):
    """An objective beside the loss: that each task's prompt answers as a prompt of its own would.

    The step adds `weight` times the Kullback-Leibler divergence from the teacher's distribution of
    each target token, averaged as the loss is. (The authors also draw hidden states together.)

    Attributes:
        teachers: float32 `[tasks, length, d_model]`.
        weight: of the divergence.

    References:
        Wang et al. 2023, "Multitask Prompt Tuning Enables Parameter-Efficient Transfer Learning",
        section 3.2, equation 4, with a temperature of 1.
    """

    teachers: Float[ArrayLike, "tasks length d_model"]
    weight: float


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


def loss_and_counts(
    logits_BxTxV: Float[Array, "B T V"], batch: Batch, z_loss: float
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Cross-entropy summed over target tokens, with what it takes to average it.

    Sums, not means: divided once by the global count, they give the same loss and gradient however
    the examples are spread over devices and micro-batches.

    Args:
        logits_BxTxV: float32 logits of each target position.
        batch: with `targets` and `target_mask`.
        z_loss: weight of log(Z)^2, which keeps logits near normalised.

    Returns:
        The summed loss in nats, and `loss` (without z-loss), `tokens` and `correct` as float32
        sums.
    """
    mask = batch["target_mask"].astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits_BxTxV, axis=-1)
    target = jnp.take_along_axis(logits_BxTxV, batch["targets"][..., None], axis=-1)[..., 0]
    cross_entropy = jnp.sum(mask * (log_z - target))
    is_correct = jnp.argmax(logits_BxTxV, axis=-1) == batch["targets"]
    correct = jnp.sum(mask * is_correct.astype(jnp.float32))
    total = cross_entropy + z_loss * jnp.sum(mask * jnp.square(log_z))
    return total, {"loss": cross_entropy, "tokens": jnp.sum(mask), "correct": correct}


def divergence(
    logits_BxTxV: Float[Array, "B T V"], teacher_BxTxV: Float[Array, "B T V"], batch: Batch
) -> Float[Array, ""]:
    """KL(teacher || student) in nats, summed over real target tokens."""
    log_student, log_teacher = map(jax.nn.log_softmax, (logits_BxTxV, teacher_BxTxV))
    by_token = jnp.sum(jnp.exp(log_teacher) * (log_teacher - log_student), axis=-1)
    return jnp.sum(jnp.where(batch["target_mask"], by_token, 0.0))


def make_train_step(
    graphdef: Any,
    optimizer: optax.GradientTransformation,
    *,
    accumulation: int = 1,
    dropout_rate: float = 0.0,
    z_loss: float = 0.0,
    wayward: Wayward | None = None,
    distillation: Distillation | None = None,
    axis: str | None = None,
) -> Callable[[TrainState, nnx.State, Batch], tuple[TrainState, dict[str, Array]]]:
    """Builds `step(state, frozen, batch) -> (state, metrics)`.

    Only `state.trainable` is differentiated: no gradient of a frozen leaf is ever computed.

    Args:
        graphdef: of the `PromptedModel` that (trainable, frozen) were split from.
        optimizer: sees the trainable part only.
        accumulation: micro-batches that the batch's rows are cut into, one after the other.
        dropout_rate: inside the model; 0 for none.
        z_loss: weight of the z-loss.
        wayward: what the prompt is drawn to, if anything.
        distillation: what its answers are drawn to, if anything.
        axis: name of the mapped axis that rows are spread over, to sum over it; None on one device.

    Returns:
        The step. Its metrics are float32 scalars, the same on every device: `loss` (nats a target
        token), `token_accuracy`, `grad_norm`, `tokens` and `finite`, `wayward_distance` where the
        prompt is drawn to a text, and `distillation` (nats a target token) where there are
        teachers; the loss is without these. Where loss, gradient or update is not finite the state
        keeps its trainable and optimizer parts, so that the last good prompt survives.
    """

    def sums(trainable, frozen, batch, keys_B):
        model = nnx.merge(graphdef, trainable, frozen)
        dropout = Dropout(dropout_rate, keys_B) if dropout_rate else None
        logits = model.target_logits(batch, dropout)
        total, counts = loss_and_counts(logits, batch, z_loss)
        if distillation is None:
            return total, counts
        teachers = jnp.asarray(distillation.teachers)
        own = row_prompts(model.model, teachers, batch["prompt_ids"])
        apart = divergence(logits, target_logits(model.model, batch, own), batch)
        return total + distillation.weight * apart, {**counts, "distillation": apart}

    grad_of_sums = jax.grad(sums, has_aux=True)

    def wayward_distance(trainable, frozen, target_PxD):
        # Of several tasks' prompts, the mean over all of them.
        vectors = nnx.merge(graphdef, trainable, frozen).vectors
        target = jnp.broadcast_to(target_PxD, vectors.shape)
        return jnp.mean(jnp.sum(jnp.square(vectors - target), axis=-1))

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

        tokens = jnp.maximum(counts["tokens"], 1.0)
        grads = jax.tree.map(lambda g: g / tokens.astype(g.dtype), grads)
        drawn = {}
        if wayward is not None:
            target, gamma = wayward
            distance, pull = jax.value_and_grad(wayward_distance)(state.trainable, frozen, target)
            grads = jax.tree.map(lambda g, p: g + gamma * p, grads, pull)
            drawn["wayward_distance"] = distance
        if distillation is not None:
            drawn["distillation"] = counts["distillation"] / tokens
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
        metrics = {
            "loss": counts["loss"] / tokens,
            "token_accuracy": counts["correct"] / tokens,
            "grad_norm": grad_norm,
            "tokens": counts["tokens"],
            "finite": finite.astype(jnp.float32),
            **drawn,
        }
        return TrainState(trainable, opt_state, state.step + 1, state.key_data), metrics

    return step
