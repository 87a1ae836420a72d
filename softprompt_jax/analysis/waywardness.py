"""How far a prompt is from any text, and what becomes of it when it is made one."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from softprompt_jax.analysis.neighbours import highest
from softprompt_jax.analysis.vocabulary import Vocabulary, unit
from softprompt_jax.config import TaskOptions
from softprompt_jax.data.buckets import plan_shapes
from softprompt_jax.data.preparation import EVALUATION_SHAPES
from softprompt_jax.data.splits import Split
from softprompt_jax.models import LanguageModel
from softprompt_jax.prompts import PromptedModel, SoftPrompt
from softprompt_jax.prompts.initializers import text_ids
from softprompt_jax.tasks import Task
from softprompt_jax.training import partition
from softprompt_jax.training.evaluation import Evaluator
from softprompt_jax.training.parallel import Layout

Vectors = Float[np.ndarray, "P D"]


def discretise(vectors: Vectors, vocabulary: Vocabulary) -> Int[np.ndarray, " P"]:
    """The token that is nearest to each vector by Euclidean distance.

    Not by cosine as neighbours are: that is the distance that the token's embedding, put in the
    vector's place, is away.

    Returns:
        int32 ids.

    References:
        Khashabi et al. 2021, "Prompt Waywardness", whose code takes this distance.
    """
    queries = vectors.astype(np.float32)

    def score(rows: Vectors) -> Vectors:
        # |q - e|^2 = |q|^2 - 2 (q.e - |e|^2 / 2), and |q|^2 is the same for all tokens.
        return queries @ rows.T - 0.5 * np.square(rows).sum(axis=1)

    return highest(queries, vocabulary, 1, score)[0][:, 0]


class Judge:
    """The loss and the metrics of vectors on a split of a task.

    Args:
        model: loaded as the layout has it.
        task: whose metrics are taken.
        split: its rows.
        batch_size: rows a batch.
        options: of the task: what precedes labels, and how long generated answers may be.
        layout: of the devices.
    """

    def __init__(
        self,
        model: LanguageModel,
        task: Task,
        split: Split,
        *,
        batch_size: int,
        options: TaskOptions,
        layout: Layout,
    ):
        self._module = model.module
        self._task = task
        self._split = split
        self._layout = layout
        graphdef, _, frozen = self._take_apart(np.zeros((1, model.d_model), np.float32))
        self._frozen = layout.place_frozen(frozen)
        examples = split.examples
        self._evaluate = Evaluator(
            graphdef,
            model.config,
            model.tokenizer,
            shapes=plan_shapes(examples.input_lengths, examples.target_lengths, EVALUATION_SHAPES),
            batch_size=batch_size,
            max_target_length=options.max_target_length,
            layout=layout,
            target_prefix=options.target_prefix,
        )

    def _take_apart(self, vectors: Vectors) -> tuple[Any, Any, Any]:
        prompted = PromptedModel(self._module, jnp.asarray(vectors))
        return partition.split(prompted, partition.trainable_filter("prompt_tuning"))

    def __call__(self, vectors: Vectors) -> dict[str, Any]:
        """The mean loss of a target token in nats, and the task's metrics."""
        trained = self._layout.place_frozen(self._take_apart(vectors)[1])
        likelihood = self._evaluate.likelihood(trained, self._frozen, self._split)
        metrics = likelihood
        if self._task.evaluation != "likelihood":
            metrics = self._evaluate(trained, self._frozen, self._task, self._split)
        if self._task.evaluation == "score":
            metrics.pop("outside_labels", None)  # the likeliest label is always a label
        return {"loss": -likelihood["log_likelihood"], "metrics": metrics}


def describe(
    prompts: Mapping[str, SoftPrompt],
    vocabulary: Vocabulary,
    judge: Judge,
    task: str,
    split: Split,
    text: str | None = None,
) -> dict[str, Any]:
    """Prompts beside the text that they are nearest to.

    Args:
        prompts: by name.
        vocabulary: of their model.
        judge: of the split.
        task: its name.
        split: its rows, which the judge judges by.
        text: a text to compare the prompts with; None: none.

    Returns:
        JSON-able, as `reports.waywardness` reads it. Distances are the mean over positions of the
        Euclidean distance to the token in that place, and of that over the position's own length.

    Raises:
        UserError: the text has no tokens.

    References:
        Khashabi et al. 2021, "Prompt Waywardness: The Curious Case of Discretized Interpretation of
        Continuous Prompts".
    """
    targets = {}
    for name, prompt in prompts.items():
        targets[name] = (
            None if text is None else text_ids(text, prompt.length, vocabulary.tokenizer)
        )
    each = {}
    for name, prompt in prompts.items():
        vectors, target = np.asarray(prompt.vectors), targets[name]
        ids = discretise(vectors, vocabulary)
        described = {
            "task": prompt.card.get("task"),
            "init": prompt.card.get("init"),
            "trained": judge(vectors),
            "discretised": _as_tokens(vectors, ids, vocabulary, judge),
        }
        if target is not None:
            described["text"] = _as_tokens(vectors, target, vocabulary, judge)
            described["positions_nearest_to_text"] = int((ids == target).sum())
        each[name] = described
    return {
        "analysis": "waywardness",
        "model": vocabulary.name,
        "tokens": len(vocabulary.ids),
        "task": task,
        "examples": len(split.examples),
        "cut_inputs": split.examples.truncated_inputs,
        "prompts": each,
    }


def _as_tokens(vectors: Vectors, ids: np.ndarray, vocabulary: Vocabulary, judge: Judge) -> Any:
    """A prompt with tokens in the places of its vectors."""
    rows = vocabulary.rows(ids)
    distances = np.linalg.norm(vectors - rows, axis=1)
    norms = np.linalg.norm(vectors, axis=1)
    return {
        "tokens": [
            {"id": int(token), "text": text, "distance": float(distance)}
            for token, text, distance in zip(ids, vocabulary.texts(ids), distances, strict=True)
        ],
        "distance": float(distances.mean()),
        "relative_distance": float((distances / np.maximum(norms, 1e-30)).mean()),
        "cosine": float((unit(vectors) * unit(rows)).sum(axis=1).mean()),
        **judge(rows),
    }
