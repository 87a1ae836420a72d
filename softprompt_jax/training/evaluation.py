"""Scoring a split of a task: by the likeliest label, by greedy text, or by the likelihood."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from softprompt_jax.data import Shape, encode_choices, evaluation_batches
from softprompt_jax.data.splits import Split
from softprompt_jax.data.tokenization import decode_answers, pad_rows, without_prefix
from softprompt_jax.inference.decoding import greedy
from softprompt_jax.inference.scoring import choice_log_likelihoods, target_log_likelihoods
from softprompt_jax.prompts.prompted_model import Batch, PromptedModel
from softprompt_jax.tasks import Task
from softprompt_jax.training.parallel import Layout


class Evaluator:
    """Predicts and scores splits of tasks; compiled once a shape for all that predict alike.

    Args:
        graphdef: of the `PromptedModel`.
        config: of the model.
        tokenizer: of the model.
        shapes: that hold every row of the splits to come.
        batch_size: rows a batch; rounded up to a multiple of the devices.
        max_target_length: tokens to generate at most.
        layout: of the devices that share the rows of a batch.
        target_prefix: what the model says before a target.
    """

    def __init__(
        self,
        graphdef: Any,
        config: Any,
        tokenizer: Any,
        *,
        shapes: Sequence[Shape],
        batch_size: int,
        max_target_length: int,
        layout: Layout,
        target_prefix: str = "",
    ):
        self._target_prefix = target_prefix
        self._config = config
        self._tokenizer = tokenizer
        self._shapes = shapes
        self._layout = layout
        self._batch_size = -(-batch_size // layout.shards) * layout.shards
        self._own = layout.own_rows(self._batch_size)

        def mapped(predict: Callable[[PromptedModel, Batch, Any], Any]) -> Callable[..., Any]:
            return layout.over_rows(
                lambda trainable, frozen, rows, shared: predict(
                    nnx.merge(graphdef, trainable, frozen), rows, shared
                )
            )

        self._generate = mapped(
            lambda model, rows, _: greedy(model.model, rows, model.served, max_target_length)
        )
        self._score = mapped(
            lambda model, rows, choices: jnp.argmax(
                choice_log_likelihoods(model.model, rows, choices[0], choices[1], model.served),
                axis=1,
            )
        )
        self._likelihood = mapped(
            lambda model, rows, _: target_log_likelihoods(model.model, rows, model.served)
        )

    def __call__(
        self,
        trainable: Any,
        frozen: Any,
        task: Task,
        split: Split,
        renamed: Mapping[str, str] | None = None,
    ) -> dict[str, float]:
        """The task's metrics over a split; every example counts once, whatever the devices.

        Args:
            trainable: on the devices, as `partition.split` gives it.
            frozen: likewise.
            task: says how to predict and which metrics to take.
            split: of the task, or of another one for transfer.
            renamed: from the words that the prompt was trained to say to those of the task, where
                they differ.
        """
        if task.evaluation == "likelihood":
            return self.likelihood(trainable, frozen, split)
        names = dict(renamed or {})
        if task.evaluation == "score":
            said = {label: name for name, label in names.items()}
            labels = [self._target_prefix + said.get(label, label) for label in task.labels]
            choices = pad_rows(encode_choices(labels, self._tokenizer, self._config))
            best = self._rows(self._score, trainable, frozen, split, choices)
            predictions = [task.labels[choice] for choice in best]
        else:
            ids = self._rows(self._generate, trainable, frozen, split, None)
            texts = decode_answers(ids, self._tokenizer, self._config)
            texts = [without_prefix(text, self._target_prefix) for text in texts]
            predictions = [names.get(text, text) for text in texts]
        return task.evaluate(predictions, split.references)

    def likelihood(self, trainable: Any, frozen: Any, split: Split) -> dict[str, float]:
        """How likely the targets are: nats a token, and perplexity."""
        values = self._rows(self._likelihood, trainable, frozen, split, None)
        # Targets end where they were cut; what was cut is not judged.
        tokens = float(split.examples.target_lengths.sum())
        log_likelihood = float(values.astype(np.float64).sum()) / tokens
        return {"log_likelihood": log_likelihood, "perplexity": float(np.exp(-log_likelihood))}

    def _rows(
        self, predict: Callable[..., Any], trainable: Any, frozen: Any, split: Split, shared: Any
    ) -> np.ndarray:
        """What `predict` gives for each row of the split, in order: `[rows, ...]`.

        Everything is queued first and fetched in one go, so that the devices never wait.
        """
        names = ["inputs", "input_mask"]
        if predict is self._likelihood:
            names += ["targets", "target_mask"]
        indexes, outputs = [], []
        for batch, index in evaluation_batches(
            split.examples, self._shapes, self._batch_size, self._own
        ):
            # Rows of padding have no real token: decoding does not wait for them.
            batch["input_mask"][index[self._own] < 0] = False
            taken = {name: batch[name] for name in names}
            rows = self._layout.place_rows(taken, self._batch_size)
            outputs.append(predict(trainable, frozen, rows, shared))
            indexes.append(index)
        values = np.concatenate(self._layout.fetch(outputs))
        index = np.concatenate(indexes)
        result = np.zeros((len(split.examples), *values.shape[1:]), values.dtype)
        result[index[index >= 0]] = values[index >= 0]
        return result
