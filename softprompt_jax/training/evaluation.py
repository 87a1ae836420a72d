"""Scoring a split of a task, by the likeliest label or by greedy text."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from softprompt_jax.data import (
    Shape,
    TokenizedExamples,
    encode_choices,
    evaluation_batches,
)
from softprompt_jax.data.tokenization import pad_rows
from softprompt_jax.inference.decoding import greedy
from softprompt_jax.inference.scoring import choice_log_likelihoods
from softprompt_jax.prompts.prompted_model import Batch, PromptedModel
from softprompt_jax.tasks import Task
from softprompt_jax.training.parallel import Device, pmap_rows, shard_rows


class Evaluator:
    """Predicts and scores splits of one task; compiled once a shape for all of them.

    Args:
        task: says how to predict (`score` or `generate`) and which metrics to take.
        graphdef: of the `PromptedModel`.
        config: of the model.
        tokenizer: of the model.
        shapes: that hold every row of the splits to come.
        batch_size: rows a batch; rounded up to a multiple of the devices.
        max_target_length: tokens to generate at most.
        devices: that share the rows of a batch.
    """

    def __init__(
        self,
        task: Task,
        graphdef: Any,
        config: Any,
        tokenizer: Any,
        *,
        shapes: Sequence[Shape],
        batch_size: int,
        max_target_length: int,
        devices: Sequence[Device],
    ):
        self._task = task
        self._tokenizer = tokenizer
        self._shapes = shapes
        self._devices = len(devices)
        self._batch_size = -(-batch_size // len(devices)) * len(devices)
        choices = None
        if task.evaluation == "score":
            choices = pad_rows(encode_choices(task.labels, tokenizer, config))

        def predict(model: PromptedModel, rows: Batch) -> Any:
            if choices is None:
                return greedy(model.model, rows, model.vectors, max_target_length)
            ids, mask = map(jnp.asarray, choices)
            scores = choice_log_likelihoods(model.model, rows, ids, mask, model.vectors)
            return jnp.argmax(scores, axis=1)

        self._predict = pmap_rows(
            lambda trainable, frozen, rows: predict(nnx.merge(graphdef, trainable, frozen), rows),
            devices,
        )

    def __call__(
        self, trainable: Any, frozen: Any, examples: TokenizedExamples, targets: Sequence[str]
    ) -> dict[str, float]:
        """The task's metrics over a split; every example counts once, whatever the devices.

        Everything is queued first and fetched in one go, so that the devices never wait.

        Args:
            trainable: on the devices, as `partition.split` gives it.
            frozen: likewise.
            examples: the split's tokens.
            targets: the split's target texts.
        """
        indexes, outputs = [], []
        for batch, index in evaluation_batches(examples, self._shapes, self._batch_size):
            rows = {name: batch[name] for name in ("inputs", "input_mask")}
            outputs.append(self._predict(trainable, frozen, shard_rows(rows, self._devices)))
            indexes.append(index)
        fetched = jax.device_get(outputs)
        predictions = [""] * len(examples)
        for index, output in zip(indexes, fetched, strict=True):
            rows = output.reshape(len(index), *output.shape[2:])
            for i, text in zip(index, self._texts(rows), strict=True):
                if i >= 0:
                    predictions[i] = text
        return self._task.evaluate(predictions, targets)

    def _texts(self, rows: np.ndarray) -> list[str]:
        if self._task.evaluation == "score":
            return [self._task.labels[choice] for choice in rows]
        texts = self._tokenizer.batch_decode(rows, skip_special_tokens=True)
        return [text.strip() for text in texts]
