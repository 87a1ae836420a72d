"""Prompts made of prompts: retrieved for another task, combined, or recycled for another model.

Each result is a `SoftPrompt` whose card says what it was made of, and starts a run as any other
with `--prompt.init file`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from softprompt_jax.analysis.similarity import MEASURES, check_comparable
from softprompt_jax.analysis.vocabulary import Vocabulary, unit
from softprompt_jax.errors import UserError
from softprompt_jax.prompts.soft_prompt import AS_TRAINED, TENSOR_FILE, SoftPrompt
from softprompt_jax.prompts.unfolded_prompt import load_prompt

RIDGE = 1e-3
"""Weight of the ridge term where shared tokens are too few, relative to their mean square."""

_BLOCK = 4096  # shared tokens that are looked at in one go
_HELD_OUT = 10  # every tenth shared token tells how well the map does on those it has not seen
_LEAST_PIVOT = 1e-10  # below this the squares of float32 embeddings are rounding


# -------------------------------------------------------------------------------- retrieval


class Match(NamedTuple):
    """A source prompt.

    Attributes:
        name: of the prompt.
        similarity: to the target's.
    """

    name: str
    similarity: float


def find_prompts(
    folder: str | Path, target: SoftPrompt | None = None
) -> tuple[dict[str, SoftPrompt], dict[str, str]]:
    """All prompts in a folder and the folders in it, by their path within it.

    Args:
        folder: where to look, such as that of all runs.
        target: what they are to be compared with; None: anything.

    Returns:
        The prompts, and why others are left out: they are more than vectors, or of another model
        than the target.

    Raises:
        UserError: there is none to be used, or one is damaged.
    """
    folder = Path(folder)
    found, left_out = {}, {}
    for path in sorted(folder.rglob(TENSOR_FILE)):
        inner = path.parent.relative_to(folder)
        if any(part.startswith(".") for part in inner.parts):  # what a save left unfinished
            continue
        prompt = load_prompt(path.parent)
        if not isinstance(prompt, SoftPrompt):
            left_out[inner.as_posix()] = f"a {prompt.kind!r} prompt, which is more than vectors"
        elif target is not None and not _comparable(target, prompt):
            left_out[inner.as_posix()] = "of another model than the target"
        else:
            found[inner.as_posix()] = prompt
    if not found:
        why = f" (left out: {len(left_out)}, such as {min(left_out)})" if left_out else ""
        raise UserError(
            f"There is no prompt in {folder} or the folders in it that can be compared{why}; "
            "choose another."
        )
    return found, left_out


def _comparable(one: SoftPrompt, other: SoftPrompt) -> bool:
    try:
        check_comparable({"one": one, "other": other})
    except UserError:
        return False
    return True


def retrieve(
    target: SoftPrompt, sources: Mapping[str, SoftPrompt], measure: str = "mean"
) -> list[Match]:
    """Ranks source prompts by their similarity to a prompt of the target task.

    Args:
        target: trained on the target task for some steps; SPoT stops at 10,000.
        sources: by name, of the same model.
        measure: one of `similarity.MEASURES`.

    Returns:
        The sources, the most similar first.

    Raises:
        UserError: there are none, an unknown measure, or prompts that cannot be compared.

    References:
        Vu et al. 2021, "SPoT: Better Frozen Model Adaptation through Soft Prompt Transfer",
        section 3.3.
    """
    if measure not in MEASURES:
        raise UserError(f"There is no measure {measure!r}; choose {', '.join(MEASURES)}.")
    if not sources:
        raise UserError("There is no source prompt to choose from; give at least one.")
    names = list(sources)
    matches = []
    for name in names:  # in pairs: sources may have several lengths where the measure allows it
        check_comparable({"of the target": target, name: sources[name]})
        pair = [np.asarray(target.vectors), np.asarray(sources[name].vectors)]
        matches.append(Match(name, float(MEASURES[measure](pair)[0, 1])))
    return sorted(matches, key=lambda match: (-match.similarity, match.name))


# ------------------------------------------------------------------------------ combination


def combine(
    prompts: Mapping[str, SoftPrompt], weights: Sequence[float] | None = None
) -> SoftPrompt:
    """The weighted sum of prompts, position by position.

    Args:
        prompts: by name, of one model and length.
        weights: of each, taken as they are; None: equal ones that sum to 1, which is the mean.

    Returns:
        A prompt whose card names its parts and their weights, and of model, task, labels and
        prefixes what they agree on. It has no metrics: it was not evaluated.

    Raises:
        UserError: there are no prompts, they do not fit each other, or as many finite weights are
            missing.

    References:
        Vu et al. 2021, section 3.3 (weights in proportion to similarities); Qin and Eisner 2021,
        "Learning How to Ask" (mixtures of soft prompts).
    """
    if not prompts:
        raise UserError("There is no prompt to combine; give at least one.")
    if weights is None:
        weights = [1 / len(prompts)] * len(prompts)
    if len(weights) != len(prompts):
        raise UserError(
            f"There are {len(prompts)} prompts but {len(weights)} weights; give one for each."
        )
    if not all(math.isfinite(weight) for weight in weights):
        raise UserError("A weight is not a finite number; mend it.")
    if len(prompts) > 1:
        check_comparable(prompts)
    lengths = {prompt.length for prompt in prompts.values()}
    if len(lengths) > 1:
        told = ", ".join(f"{name} {prompt.length}" for name, prompt in prompts.items())
        raise UserError(
            f"Prompts of several lengths have no sum (positions: {told}); give prompts of one."
        )
    parts = [np.asarray(prompt.vectors, np.float64) for prompt in prompts.values()]
    total = sum(weight * part for weight, part in zip(weights, parts, strict=True))
    cards = [prompt.card for prompt in prompts.values()]
    card: dict[str, Any] = {
        fact: cards[0][fact]
        for fact in ("model", "model_fingerprint", "task", "labels", *AS_TRAINED)
        if fact in cards[0] and all(card.get(fact) == cards[0][fact] for card in cards)
    }
    card["init"] = "combined"
    card["combined_from"] = [
        {"prompt": name, "task": prompt.card.get("task"), "weight": float(weight)}
        for (name, prompt), weight in zip(prompts.items(), weights, strict=True)
    ]
    return SoftPrompt(_finite(total), card)


def combine_matches(
    matches: Sequence[Match], sources: Mapping[str, SoftPrompt], measure: str
) -> SoftPrompt:
    """The average of retrieved prompts, weighted in proportion to their similarities.

    Raises:
        UserError: a similarity is not positive, so that it is no weight; or as `combine`.
    """
    for match in matches:
        if match.similarity <= 0:
            raise UserError(
                f"Prompt {match.name} has the similarity {match.similarity:.3f}, which is no "
                "weight of an average; take fewer with --top."
            )
    total = sum(match.similarity for match in matches)
    prompt = combine(
        {match.name: sources[match.name] for match in matches},
        [match.similarity / total for match in matches],
    )
    return SoftPrompt(prompt.vectors, {**prompt.card, "weighted_by": measure})


# -------------------------------------------------------------------------------- recycling


class SharedTokens(NamedTuple):
    """Tokens that two vocabularies have in common, the same text a row.

    Attributes:
        source: int32 `[n]`, ids in the source's vocabulary.
        target: int32 `[n]`, ids in the target's.
    """

    source: Int[np.ndarray, " n"]
    target: Int[np.ndarray, " n"]


@dataclasses.dataclass(frozen=True)
class RecyclingMap:
    """A linear map from one model's embeddings to another's.

    Attributes:
        matrix: float64 `[source d_model, target d_model]`.
        shared_tokens: number of tokens that it was fitted to.
        ridge: weight of the ridge term, relative to the mean square of the source's embeddings.
        held_out_cosine: mean cosine between mapped and real embeddings of every tenth shared
            token, under a map that was fitted to the others; None for fewer than 20 tokens.
    """

    matrix: Float[np.ndarray, "s t"]
    shared_tokens: int
    ridge: float
    held_out_cosine: float | None


def shared_tokens(source: Vocabulary, target: Vocabulary, most: int | None = None) -> SharedTokens:
    """The tokens that are the same text in both vocabularies, spaces included.

    Args:
        source: without special tokens.
        target: likewise.
        most: only so many, those with the smallest ids in the source, which are the most frequent;
            None: all.

    Raises:
        UserError: there are none.
    """
    place = {}
    for token, text in zip(target.ids, target.texts(target.ids), strict=True):
        place.setdefault(text, token)  # of tokens that look the same the most frequent
    pairs = {}
    for token, text in zip(source.ids, source.texts(source.ids), strict=True):
        if text in place:
            pairs.setdefault(text, (token, place[text]))
    if not pairs:
        raise UserError(
            f"The vocabularies of {source.name} and {target.name} share no token, so there is "
            "nothing to fit a map to; choose another model."
        )
    both = np.array(list(pairs.values())[:most], np.int32)
    return SharedTokens(both[:, 0], both[:, 1])


def check_ridge(ridge: float | None) -> None:
    """Refuses a weight of the ridge term that is negative or not finite."""
    if ridge is not None and not (ridge >= 0 and math.isfinite(ridge)):
        raise UserError(f"The ridge term is {ridge}; it must be 0 or a positive number.")


def fit_map(
    source: Vocabulary, target: Vocabulary, shared: SharedTokens, ridge: float | None = None
) -> RecyclingMap:
    """The least-squares map between two models' embeddings of the shared tokens.

    Solves min_W |S W - T|² + ridge · mean(S²) · n · |W|² with S and T the embeddings of the n
    shared tokens, by the normal equations in float64.

    Args:
        source: the vocabulary to map from.
        target: the vocabulary to map to.
        shared: their common tokens.
        ridge: weight of the ridge term; None: 0 where the tokens determine the map, else `RIDGE`.

    Raises:
        UserError: the ridge term is negative, or 0 where the tokens do not determine the map.

    References:
        Lester et al. 2022, "Reducing Retraining by Recycling Parameter-Efficient Prompts", the
        linear vocabulary-to-vocabulary recycler (which has no ridge term).
    """
    check_ridge(ridge)
    count = len(shared.source)
    held = np.arange(count) % _HELD_OUT == _HELD_OUT - 1
    rest = _moments(source, target, _select(shared, ~held))
    part = _moments(source, target, _select(shared, held))
    gram, cross = rest[0] + part[0], rest[1] + part[1]
    if ridge is None:
        ridge = 0.0 if _determined(gram, count) else RIDGE
    elif ridge == 0 and not _determined(gram, count):
        raise UserError(
            f"{count} shared tokens do not determine a map of {len(gram)} dimensions; give a ridge "
            f"term above 0, such as {RIDGE}, or leave it out."
        )
    held_out = None
    if count >= 2 * _HELD_OUT:
        # Without the tokens that are held out the map may be underdetermined where it is not with
        # them: a least ridge keeps that solvable, and is lost in rounding elsewhere.
        least = max(ridge, 1e-9)
        held_out = _mean_cosine(_solve(*rest, least), source, target, _select(shared, held))
    return RecyclingMap(_solve(gram, cross, ridge), count, ridge, held_out)


def recycle(
    prompt: SoftPrompt,
    source: Vocabulary,
    target: Vocabulary,
    *,
    ridge: float | None = None,
    most: int | None = None,
) -> SoftPrompt:
    """A prompt of one model for another one.

    Args:
        prompt: trained on the source model.
        source: vocabulary of that model, without special tokens.
        target: vocabulary of the model that it is to be for, likewise.
        ridge: as for `fit_map`.
        most: as for `shared_tokens`.

    Returns:
        A prompt of the same length whose card says what it was made of. It has no metrics: how good
        it is on its new model is yet to be seen.

    Raises:
        UserError: the prompt has another width than the source model, the vocabularies share
            nothing, or as `fit_map`.

    References:
        Lester et al. 2022, "Reducing Retraining by Recycling Parameter-Efficient Prompts".
    """
    prompt.check_fits(source.config, source.name)
    shared = shared_tokens(source, target, most)
    fitted = fit_map(source, target, shared, ridge)
    vectors = np.asarray(prompt.vectors, np.float64) @ fitted.matrix
    card: dict[str, Any] = {
        "model": target.name,
        "model_fingerprint": target.fingerprint,
        "init": "recycled",
        "recycled_from": {
            "model": source.name,
            "model_fingerprint": prompt.card.get("model_fingerprint"),
            "init": prompt.card.get("init"),
            "step": prompt.card.get("step"),
            "shared_tokens": fitted.shared_tokens,
            "ridge": fitted.ridge,
            "held_out_cosine": fitted.held_out_cosine,
        },
    }
    kept = ("task", "labels", *AS_TRAINED)
    card |= {fact: prompt.card[fact] for fact in kept if fact in prompt.card}
    return SoftPrompt(_finite(vectors), card)


def _select(shared: SharedTokens, rows: np.ndarray) -> SharedTokens:
    return SharedTokens(shared.source[rows], shared.target[rows])


def _blocks(source: Vocabulary, target: Vocabulary, shared: SharedTokens) -> Any:
    """The embeddings of shared tokens in both models, float64, some thousand at a time."""
    for start in range(0, len(shared.source), _BLOCK):
        rows = slice(start, start + _BLOCK)
        yield (
            source.rows(shared.source[rows]).astype(np.float64),
            target.rows(shared.target[rows]).astype(np.float64),
        )


def _moments(
    source: Vocabulary, target: Vocabulary, shared: SharedTokens
) -> tuple[np.ndarray, np.ndarray]:
    """SᵀS and SᵀT."""
    gram = np.zeros((source.embedding.shape[1],) * 2)
    cross = np.zeros((source.embedding.shape[1], target.embedding.shape[1]))
    for s, t in _blocks(source, target, shared):
        gram += s.T @ s
        cross += s.T @ t
    return gram, cross


def _determined(gram: np.ndarray, count: int) -> bool:
    """Whether least squares has one solution, up to rounding."""
    if count < len(gram):
        return False
    try:
        pivots = np.diagonal(np.linalg.cholesky(gram)) ** 2
    except np.linalg.LinAlgError:
        return False
    return bool(pivots.min() > _LEAST_PIVOT * np.diagonal(gram).max())


def _solve(gram: np.ndarray, cross: np.ndarray, ridge: float) -> np.ndarray:
    size = len(gram)
    return np.linalg.solve(gram + ridge * np.trace(gram) / size * np.eye(size), cross)


def _mean_cosine(
    matrix: np.ndarray, source: Vocabulary, target: Vocabulary, shared: SharedTokens
) -> float:
    cosines = [(unit(s @ matrix) * unit(t)).sum(axis=1) for s, t in _blocks(source, target, shared)]
    return float(np.concatenate(cosines).mean(dtype=np.float64))


def _finite(vectors: Any) -> Any:
    """float32 vectors, refused where they overflow."""
    with np.errstate(over="ignore"):
        single = np.asarray(vectors).astype(np.float32)
    if not np.isfinite(single).all():
        raise UserError(
            "The prompt that comes out holds numbers that are not finite; choose smaller weights."
        )
    return jnp.asarray(single)
