"""What a training step makes small: its loss, and what may be added to that."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from softprompt_jax.data import encode_choices
from softprompt_jax.data.tokenization import TokenConfig, encode_labels, pad_rows
from softprompt_jax.inference.scoring import choice_log_likelihoods
from softprompt_jax.models.layers import Dropout
from softprompt_jax.prompts.prompted_model import Batch, PromptedModel, row_prompts, target_logits


class LabelSets(NamedTuple):
    """The labels of each task, for a loss that is among them only.

    Attributes:
        ids: int32 `[tasks, C, T]`, as evaluation scores them, padded on the right. A task with
            fewer labels than another has some without tokens.
        mask: bool `[tasks, C, T]`, True for real tokens.
        targets: int32 `[tasks, C, L]`, as training targets have them, `NO_TOKEN` on padding.
    """

    ids: Int[np.ndarray, "tasks C T"]
    mask: Bool[np.ndarray, "tasks C T"]
    targets: Int[np.ndarray, "tasks C L"]


NO_TOKEN = -1
_NO_LABEL = -2
"""On the place of a label that a task does not have: equal to no target, not even to padding."""


def label_sets(labels: Sequence[Sequence[str]], tokenizer: Any, config: TokenConfig) -> LabelSets:
    """The labels of each task as tokens.

    Args:
        labels: of each task, with what the model has to say before them.
        tokenizer: of the model.
        config: of the model.

    Raises:
        UserError: as `encode_choices`.
    """
    scored = [pad_rows(encode_choices(each, tokenizer, config)) for each in labels]
    trained = [pad_rows(encode_labels(each, tokenizer, config)) for each in labels]
    targets = [np.where(mask, ids, NO_TOKEN) for ids, mask in trained]
    return LabelSets(
        _stacked([ids for ids, _ in scored], 0, 0),
        _stacked([mask for _, mask in scored], False, False),
        _stacked(targets, NO_TOKEN, _NO_LABEL),
    )


def _stacked(tables: Sequence[np.ndarray], no_token: Any, no_label: Any) -> np.ndarray:
    """Tables of labels and tokens as one array of the largest's shape."""
    most, longest = (max(table.shape[axis] for table in tables) for axis in (0, 1))
    stacked = np.full((len(tables), most, longest), no_label, tables[0].dtype)
    for table, place in zip(tables, stacked, strict=True):
        place[: len(table)] = no_token
        place[: len(table), : table.shape[1]] = table
    return stacked


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


def token_sums(
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


def label_sums(
    log_likelihoods_BxC: Float[Array, "B C"], batch: Batch, labels: LabelSets
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Cross-entropy among a task's labels, summed over rows.

    Args:
        log_likelihoods_BxC: float32, of each label of the row's task as a whole.
        batch: with `targets`, `target_mask` and `prompt_ids`, the place of each row's task.
        labels: of the tasks.

    Returns:
        The summed loss in nats, and `loss`, `examples` and `correct` as float32 sums. Rows whose
        target is none of the labels, as that of rows of padding, do not count.
    """
    told_BxL = jnp.where(batch["target_mask"], batch["targets"], NO_TOKEN)
    labels_BxCxL = jnp.asarray(labels.targets)[batch["prompt_ids"]]
    missing = told_BxL.shape[1] - labels_BxCxL.shape[2]
    told_BxL = jnp.pad(told_BxL, ((0, 0), (0, max(0, -missing))), constant_values=NO_TOKEN)
    labels_BxCxL = jnp.pad(
        labels_BxCxL, ((0, 0), (0, 0), (0, max(0, missing))), constant_values=NO_TOKEN
    )
    is_right_BxC = jnp.all(told_BxL[:, None] == labels_BxCxL, axis=2)
    exists_BxC = jnp.any(jnp.asarray(labels.mask), axis=2)[batch["prompt_ids"]]
    log_probs = jax.nn.log_softmax(jnp.where(exists_BxC, log_likelihoods_BxC, -jnp.inf))
    loss = -jnp.sum(jnp.where(is_right_BxC, log_probs, 0.0))
    counts_B = jnp.any(is_right_BxC, axis=1)
    best_B = jnp.argmax(log_probs, axis=1)[:, None]
    correct_B = jnp.take_along_axis(is_right_BxC, best_B, axis=1)[:, 0]
    examples, correct = (jnp.sum(x.astype(jnp.float32)) for x in (counts_B, correct_B))
    return loss, {"loss": loss, "examples": examples, "correct": correct}


def divergence(
    logits_BxTxV: Float[Array, "B T V"], teacher_BxTxV: Float[Array, "B T V"], batch: Batch
) -> Float[Array, ""]:
    """KL(teacher || student) in nats, summed over real target tokens."""
    log_student, log_teacher = map(jax.nn.log_softmax, (logits_BxTxV, teacher_BxTxV))
    by_token = jnp.sum(jnp.exp(log_teacher) * (log_teacher - log_student), axis=-1)
    return jnp.sum(jnp.where(batch["target_mask"], by_token, 0.0))


@dataclasses.dataclass(frozen=True)
class Objectives:
    """What a step makes small.

    Attributes:
        z_loss: weight of the z-loss.
        labels: where the loss is among a task's labels; None: over the vocabulary, as the paper's.
        wayward: what the prompt is drawn to, if anything.
        distillation: what its answers are drawn to, if anything.
    """

    z_loss: float = 0.0
    labels: LabelSets | None = None
    wayward: Wayward | None = None
    distillation: Distillation | None = None

    def sums(
        self, model: PromptedModel, batch: Batch, dropout: Dropout | None = None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """What rows add to the objective: the sum to differentiate, and the sums to tell of.

        Sums, not means: divided once by the global count, they give the same loss and gradient
        however the examples are spread over devices and micro-batches.
        """
        if self.labels is not None:
            ids, mask = (jnp.asarray(x)[batch["prompt_ids"]] for x in self.labels[:2])
            prompt = model.prompt_of(batch)
            scores = choice_log_likelihoods(model.model, batch, ids, mask, prompt)
            return label_sums(scores, batch, self.labels)
        logits = model.target_logits(batch, dropout)
        total, counts = token_sums(logits, batch, self.z_loss)
        if self.distillation is None:
            return total, counts
        teachers = jnp.asarray(self.distillation.teachers)
        own = row_prompts(model.model, teachers, batch["prompt_ids"])
        apart = divergence(logits, target_logits(model.model, batch, own), batch)
        return total + self.distillation.weight * apart, {**counts, "distillation": apart}

    def count(self, sums: Mapping[str, Float[Array, ""]]) -> Float[Array, ""]:
        """What the sums are divided by: how many target tokens or examples there were."""
        return jnp.maximum(sums["tokens" if self.labels is None else "examples"], 1.0)

    def metrics(self, sums: Mapping[str, Float[Array, ""]]) -> dict[str, Float[Array, ""]]:
        """What to tell of the summed rows, by name."""
        count = self.count(sums)
        named = dict(sums)
        told = {"loss": named.pop("loss") / count}
        unit = "token" if self.labels is None else "label"
        told[f"{unit}_accuracy"] = named.pop("correct") / count
        if "distillation" in named:
            told["distillation"] = named.pop("distillation") / count
        return told | named

    def wayward_distance(self, model: PromptedModel) -> Float[Array, ""]:
        """How far the prompt is from the text: of several tasks' prompts, the mean of them."""
        assert self.wayward is not None
        vectors = model.vectors
        assert vectors is not None
        target = jnp.broadcast_to(jnp.asarray(self.wayward.target), vectors.shape)
        return jnp.mean(jnp.sum(jnp.square(vectors - target), axis=-1))
