"""How alike prompts are: cosines between them, and a plane to see them in."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from softprompt_jax.analysis.vocabulary import unit
from softprompt_jax.errors import UserError
from softprompt_jax.prompts import SoftPrompt

Vectors = Float[np.ndarray, "P D"]
Matrix = Float[np.ndarray, "n n"]


def mean_cosine(prompts: Sequence[Vectors]) -> Matrix:
    """Cosines of the prompts' mean vectors (SPoT: cosine similarity of average tokens)."""
    means = unit(np.stack([vectors.mean(axis=0, dtype=np.float64) for vectors in prompts]))
    return means @ means.T


def all_pairs_cosine(prompts: Sequence[Vectors]) -> Matrix:
    """Means of the cosines of all pairs of positions (SPoT: per-token average).

    A prompt's similarity to itself is not 1: its positions differ from each other.
    """
    means = np.stack([unit(vectors).mean(axis=0) for vectors in prompts])
    return means @ means.T


def position_cosine(prompts: Sequence[Vectors]) -> Matrix:
    """Means of the cosines of like positions: the first with the first, and so on.

    Raises:
        UserError: the prompts have several lengths.
    """
    lengths = sorted({len(vectors) for vectors in prompts})
    if len(lengths) > 1:
        raise UserError(
            f"Prompts of {', '.join(map(str, lengths))} positions cannot be compared position by "
            "position; choose another measure."
        )
    rows = np.stack([unit(vectors).ravel() for vectors in prompts])
    return rows @ rows.T / lengths[0]


MEASURES: dict[str, Callable[[Sequence[Vectors]], Matrix]] = {
    "mean": mean_cosine,
    "all_pairs": all_pairs_cosine,
    "position": position_cosine,
}
"""The measures by the name that commands know them by."""

TITLES = {
    "mean": "Cosine of the mean vectors",
    "all_pairs": "Mean cosine of all pairs",
    "position": "Mean cosine of like positions",
}
"""What people are told of each measure."""


def plane(prompts: Sequence[Vectors]) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, " 2"]]:
    """The prompts' mean vectors on their first two principal components.

    Returns:
        float32 coordinates, and the share of the variance that each component has.
    """
    means = np.stack([vectors.mean(axis=0, dtype=np.float64) for vectors in prompts])
    left, sizes, _ = np.linalg.svd(means - means.mean(axis=0), full_matrices=False)
    places, shares = np.zeros((len(prompts), 2), np.float32), np.zeros(2, np.float32)
    count = min(2, len(sizes))
    places[:, :count] = left[:, :count] * sizes[:count]
    total = float((sizes**2).sum())
    if total > 0:
        shares[:count] = sizes[:count] ** 2 / total
    return places, shares


def check_comparable(prompts: Mapping[str, SoftPrompt]) -> None:
    """Refuses prompts that live in different spaces.

    Raises:
        UserError: there are fewer than two, or they have other widths or were trained on other
            weights.
    """
    if len(prompts) < 2:
        raise UserError("There is one prompt only; give at least two to compare.")
    (first, one), *others = prompts.items()
    for name, prompt in others:
        if prompt.vectors.shape[1] != one.vectors.shape[1]:
            raise UserError(
                f"Prompt {first} is {one.vectors.shape[1]} wide and {name} is "
                f"{prompt.vectors.shape[1]}; give prompts of one model."
            )
        weights = [p.card.get("model_fingerprint") for p in (one, prompt)]
        if None not in weights and weights[0] != weights[1]:
            raise UserError(
                f"Prompt {first} was trained on {one.card.get('model')} and {name} on "
                f"{prompt.card.get('model')} with other weights; give prompts of one model, or "
                "recycle one of them first."
            )


def describe(prompts: Mapping[str, SoftPrompt]) -> dict[str, Any]:
    """How alike prompts are, by every measure that they allow.

    Args:
        prompts: by name, two or more of one model.

    Returns:
        JSON-able, as `reports.similarity` reads it: a matrix for each measure, "position" only for
        prompts of one length.

    Raises:
        UserError: as `check_comparable`.

    References:
        Vu et al. 2021, "SPoT: Better Frozen Model Adaptation through Soft Prompt Transfer",
        section 3.2.
    """
    check_comparable(prompts)
    vectors = [np.asarray(prompt.vectors) for prompt in prompts.values()]
    measures = dict(MEASURES)
    if len({len(each) for each in vectors}) > 1:
        del measures["position"]
    places, shares = plane(vectors)
    return {
        "analysis": "similarity",
        "model": next(iter(prompts.values())).card.get("model"),
        "prompts": {
            name: {
                "task": prompt.card.get("task"),
                "init": prompt.card.get("init"),
                "length": prompt.length,
                "mean_vector_norm": float(np.linalg.norm(each.mean(axis=0))),
            }
            for (name, prompt), each in zip(prompts.items(), vectors, strict=True)
        },
        "cosines": {name: measure(vectors).tolist() for name, measure in measures.items()},
        "plane": places.tolist(),
        "plane_shares": shares.tolist(),
    }
