"""Whether class labels stay near a prompt's vectors (Lester et al. 2021, section 7)."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from softprompt_jax.analysis.vocabulary import Vocabulary, unit
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.prompts.initializers import label_pieces

# Products of the same two vectors differ in their last bits with the shape of the matrices.
_TOLERANCE = 1e-6


def label_vectors(
    pieces: Sequence[Sequence[int]], vocabulary: Vocabulary
) -> Float[np.ndarray, "L D"]:
    """What the class_labels start takes for each label: the mean of its pieces' embeddings."""
    return np.stack([vocabulary.rows(ids).mean(axis=0) for ids in pieces])


def ranks(
    vectors: Float[np.ndarray, "P D"], labels: Float[np.ndarray, "L D"], vocabulary: Vocabulary
) -> Int[np.ndarray, "P L"]:
    """The place of each label among a position's neighbours: 1 if no token is nearer.

    Of a label with one piece that is the piece's own place; one of several pieces, which is no
    token, gets the place that the mean of its pieces would have.

    Args:
        vectors: of a prompt.
        labels: as `label_vectors` gives them.
        vocabulary: of the model.

    Returns:
        int64, from 1 on.
    """
    queries = unit(vectors)
    cosines_PxL = queries @ unit(labels).T
    places = np.ones(cosines_PxL.shape, np.int64)
    for _, rows in vocabulary.blocks(len(queries)):
        scores_PxB = queries @ unit(rows).T
        for label in range(len(labels)):
            nearer = scores_PxB > cosines_PxL[:, label, None] + _TOLERANCE
            places[:, label] += nearer.sum(axis=1)
    return places


def describe(
    prompts: Mapping[str, SoftPrompt],
    labels: Mapping[str, Sequence[str]],
    vocabulary: Vocabulary,
    k: int = 5,
) -> dict[str, Any]:
    """Where the labels of prompts are among their neighbours.

    Args:
        prompts: by name.
        labels: of each prompt's task, in the task's order.
        vocabulary: of their model.
        k: a label that is among so many nearest is said to be near.

    Returns:
        JSON-able, as `reports.labels` reads it. A label's own position is the one that the
        class_labels start gave it; prompts of other starts have none.

    Raises:
        UserError: a label has no tokens.

    References:
        Lester et al. 2021, section 7: labels persist near the positions that they started; with
        other starts they appear too, as neighbours of several positions.
    """
    each = {}
    for name, prompt in prompts.items():
        pieces = label_pieces(labels[name], vocabulary.tokenizer, vocabulary.config)
        starts = label_vectors(pieces, vocabulary)
        places = ranks(np.asarray(prompt.vectors), starts, vocabulary)
        starters: Sequence[str] = ()
        if prompt.card.get("init") == "class_labels":
            # A card has none where a task's prompts start from other words than its answers.
            starters = prompt.card.get("labels") or labels[name]
        starters = list(starters)[: prompt.length]
        found = []
        for i, label in enumerate(labels[name]):
            best = int(places[:, i].argmin())
            own = starters.index(label) if label in starters else None
            found.append(
                {
                    "label": label,
                    "pieces": vocabulary.texts(pieces[i]),
                    "own_position": own,
                    "own_rank": None if own is None else int(places[own, i]),
                    "best_position": best,
                    "best_rank": int(places[best, i]),
                    "near_positions": np.flatnonzero(places[:, i] <= k).tolist(),
                }
            )
        each[name] = {
            "task": prompt.card.get("task"),
            "init": prompt.card.get("init"),
            "length": prompt.length,
            "labels": found,
            "ranks": places.tolist(),
        }
    return {
        "analysis": "labels",
        "model": vocabulary.name,
        "tokens": len(vocabulary.ids),
        "k": k,
        "prompts": each,
        "by_init": _by_init(each, k),
    }


def _by_init(each: Mapping[str, Any], k: int) -> dict[str, Any]:
    """For each way to start: how many labels stay at their own position, or are near any."""
    summaries: dict[str, Any] = {}
    for prompt in each.values():
        summary = summaries.setdefault(
            str(prompt["init"]),
            {"prompts": 0, "labels": 0, "near_own": 0, "near_any": 0, "near_several": 0},
        )
        summary["prompts"] += 1
        for label in prompt["labels"]:
            near = len(label["near_positions"])
            summary["labels"] += 1
            summary["near_own"] += label["own_rank"] is not None and label["own_rank"] <= k
            summary["near_any"] += near > 0
            summary["near_several"] += near > 1
    for init, summary in summaries.items():
        if init != "class_labels":
            summary["near_own"] = None
    return summaries
