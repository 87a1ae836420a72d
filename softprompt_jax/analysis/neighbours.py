"""The tokens that are nearest to a prompt's vectors (Lester et al. 2021, section 7)."""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from softprompt_jax.analysis.vocabulary import Vocabulary, unit
from softprompt_jax.errors import UserError
from softprompt_jax.prompts import SoftPrompt

Vectors = Float[np.ndarray, "P D"]


class Neighbours(NamedTuple):
    """The tokens nearest to each vector, nearest first.

    Attributes:
        ids: int32 `[P, k]`.
        cosines: float32 `[P, k]`; 0 to a vector of zeros.
    """

    ids: Int[np.ndarray, "P k"]
    cosines: Float[np.ndarray, "P k"]


def nearest(vectors: Vectors, vocabulary: Vocabulary, k: int = 5) -> Neighbours:
    """The k tokens with the highest cosine to each vector.

    Goes through the vocabulary in blocks: beyond the embedding, memory does not grow with it.

    Args:
        vectors: float `[P, D]`.
        vocabulary: with embeddings as wide.
        k: how many.

    Raises:
        UserError: the vocabulary has fewer tokens.
    """
    queries = unit(vectors)
    return Neighbours(*highest(queries, vocabulary, k, lambda rows: queries @ unit(rows).T))


def highest(
    queries: Vectors,
    vocabulary: Vocabulary,
    k: int,
    score: Callable[[Float[np.ndarray, "B D"]], Float[np.ndarray, "P B"]],
) -> tuple[Int[np.ndarray, "P k"], Float[np.ndarray, "P k"]]:
    """The k tokens with the highest score for each query, and the scores, highest first.

    Args:
        queries: float `[P, D]`.
        vocabulary: where to look.
        k: how many.
        score: from the embeddings of some tokens to each query's scores of them.
    """
    if not 1 <= k <= len(vocabulary.ids):
        raise UserError(
            f"{k} neighbours were asked for, but {vocabulary.name} has {len(vocabulary.ids)} "
            "tokens to choose from; ask for 1 or more, and no more than that."
        )
    best_ids = np.zeros((len(queries), 0), np.int32)
    best = np.zeros((len(queries), 0), np.float32)
    for ids, rows in vocabulary.blocks(len(queries)):
        best_ids = np.concatenate([best_ids, np.broadcast_to(ids, (len(queries), len(ids)))], 1)
        best = np.concatenate([best, score(rows)], axis=1)
        if best.shape[1] > k:
            kept = np.argpartition(-best, k - 1, axis=1)[:, :k]
            best_ids = np.take_along_axis(best_ids, kept, axis=1)
            best = np.take_along_axis(best, kept, axis=1)
    order = np.lexsort((best_ids, -best), axis=1)
    return np.take_along_axis(best_ids, order, axis=1), np.take_along_axis(best, order, axis=1)


def random_like(vectors: Vectors, seed: int) -> Vectors:
    """The control: vectors of the same lengths in random directions, every one equally likely."""
    directions = np.random.default_rng(seed).standard_normal(vectors.shape)
    return unit(directions) * np.linalg.norm(vectors, axis=1, keepdims=True)


def repeated(neighbours: Neighbours) -> dict[int, list[int]]:
    """The tokens that several positions have among their neighbours, the commonest first.

    Returns:
        From ids to positions, ascending.
    """
    positions: dict[int, list[int]] = defaultdict(list)
    for position, ids in enumerate(neighbours.ids):
        for token in ids:
            positions[int(token)].append(position)
    several = [(token, own) for token, own in positions.items() if len(own) > 1]
    return dict(sorted(several, key=lambda each: (-len(each[1]), each[0])))


def tightness(neighbours: Neighbours, vocabulary: Vocabulary) -> float | None:
    """How close neighbours are to each other: the mean cosine between two of one position.

    The paper sees that neighbours of a trained position form tight clusters and those of random
    vectors do not; this is that in one number.

    Returns:
        The mean over all pairs and positions; None for single neighbours.
    """
    k = neighbours.ids.shape[1]
    if k < 2:
        return None
    pairs = []
    for ids in neighbours.ids:
        rows = unit(vocabulary.rows(ids))
        pairs.append((rows @ rows.T)[np.triu_indices(k, 1)])
    return float(np.mean(pairs, dtype=np.float64))


def describe(
    prompts: Mapping[str, SoftPrompt], vocabulary: Vocabulary, k: int = 5, seed: int = 0
) -> dict[str, Any]:
    """The neighbours of prompts beside those of random vectors.

    Args:
        prompts: by name.
        vocabulary: of their model.
        k: neighbours a position.
        seed: of the random vectors.

    Returns:
        JSON-able, as `reports.neighbours` reads it.

    Raises:
        UserError: as `nearest`.

    References:
        Lester et al. 2021, section 7, which reads neighbours by cosine and repeats among them.
    """
    each = {}
    for name, prompt in prompts.items():
        vectors = np.asarray(prompt.vectors)
        found = nearest(vectors, vocabulary, k)
        control = nearest(random_like(vectors, seed), vocabulary, k)
        ids = np.unique(found.ids).tolist()
        texts = dict(zip(ids, vocabulary.texts(ids), strict=True))
        norms = np.linalg.norm(vectors, axis=1)
        each[name] = {
            "task": prompt.card.get("task"),
            "init": prompt.card.get("init"),
            "positions": [
                {
                    "norm": float(norms[position]),
                    "neighbours": [
                        {"id": int(i), "text": texts[int(i)], "cosine": float(cosine)}
                        for i, cosine in zip(ids, cosines, strict=True)
                    ],
                }
                for position, (ids, cosines) in enumerate(zip(*found, strict=True))
            ],
            "summary": _summary(found, vocabulary),
            "control": _summary(control, vocabulary),
            "control_cosines": control.cosines[:, 0].tolist(),
            "repeated": [
                {"id": token, "text": texts[token], "positions": positions}
                for token, positions in repeated(found).items()
            ],
        }
    return {
        "analysis": "neighbours",
        "model": vocabulary.name,
        "tokens": len(vocabulary.ids),
        "mean_token_norm": vocabulary.mean_norm(),
        "k": k,
        "seed": seed,
        "prompts": each,
    }


def _summary(found: Neighbours, vocabulary: Vocabulary) -> dict[str, Any]:
    first = found.cosines[:, 0].astype(np.float64)
    return {
        "nearest_cosine_mean": float(first.mean()),
        "nearest_cosine_least": float(first.min()),
        "nearest_cosine_most": float(first.max()),
        "cosine_among_neighbours": tightness(found, vocabulary),
        "different_nearest": len(np.unique(found.ids[:, 0])),
        "tokens_of_several_positions": len(repeated(found)),
    }
