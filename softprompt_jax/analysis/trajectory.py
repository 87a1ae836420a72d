"""The way of a prompt through training, from what its run kept of it."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from orbax.checkpoint import v1 as ocp

from softprompt_jax.analysis.neighbours import nearest
from softprompt_jax.analysis.vocabulary import Vocabulary, unit
from softprompt_jax.config import RunConfig
from softprompt_jax.errors import UserError
from softprompt_jax.models import LanguageModel
from softprompt_jax.models.families import ModelConfig
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.tasks import Task
from softprompt_jax.training.setup import check_prompt, initial_vectors, tasks_from_options

_PROMPT_LEAF = re.compile(r"trainable\.prompt(\.\w+)?")


@dataclasses.dataclass(frozen=True)
class Point:
    """A prompt at a step of its training.

    Attributes:
        step: number of steps taken.
        kept: where it was read from: "start", "checkpoint", "kept" or "best", or two of these.
        vectors: float32 `[length, d_model]`.
    """

    step: int
    kept: str
    vectors: Float[np.ndarray, "length d_model"]


def read_config(run: Path) -> RunConfig:
    """The config of a run that tuned a prompt.

    Raises:
        UserError: the folder holds no run, or one that trained no plain prompt.
    """
    path = run / "config.json"
    if not path.is_file():
        raise UserError(f"There is no run in {run}: config.json is missing.")
    try:
        config = RunConfig.from_json(path.read_text(encoding="utf-8"))
    except (UserError, OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path} is not the config of a run ({str(error).rstrip('.')}); choose another --run."
        ) from None
    if config.train.method != "prompt_tuning":
        raise UserError(f"The run in {run} trained the model and no prompt; choose another --run.")
    if config.prompt.parameterization != "plain":
        raise UserError(
            f"The run in {run} trained a prompt of --prompt.parameterization "
            f"{config.prompt.parameterization}, whose checkpoints hold no vectors to follow; "
            "choose a plain one."
        )
    return config


def check_start(config: RunConfig, model: ModelConfig) -> None:
    """Finds what `start_point` cannot make again, before weights are read.

    Raises:
        UserError: as `start_point`.
    """
    check_prompt(config, model, _tasks(config))


def start_point(config: RunConfig, model: LanguageModel) -> Point:
    """Where the run started: no run keeps it, but its config and seed give it again.

    Raises:
        UserError: what it started from (data with the labels, a prompt's file) is not there.
    """
    return Point(0, "start", np.asarray(initial_vectors(config, model, _tasks(config))))


def _tasks(config: RunConfig) -> list[Task]:
    """Those whose labels it may have started from."""
    return tasks_from_options(config.task) if config.prompt.init == "class_labels" else []


def kept_points(run: Path) -> list[Point]:
    """The prompts that a run's folder has: of its checkpoints, of `kept` and of `best`.

    Runs keep their newest checkpoints, and what `train.keep_steps` asks for.

    Raises:
        UserError: nothing is kept, or it is damaged or no plain prompt.
    """
    points = {}
    folder = run / "checkpoints"
    steps = sorted(int(path.name) for path in folder.glob("*") if path.name.isdigit())
    for step in steps:
        points[step] = Point(step, "checkpoint", _read_checkpoint(folder / str(step)))
    for path in (run / "kept").glob("*"):
        if path.name.isdigit() and int(path.name) not in points:
            points[int(path.name)] = Point(
                int(path.name), "kept", np.asarray(SoftPrompt.load(path).vectors)
            )
    if (run / "best").is_dir():
        best = SoftPrompt.load(run / "best")
        step, vectors = best.card.get("step"), np.asarray(best.vectors)
        if isinstance(step, int):
            kept = f"{points[step].kept}, best" if step in points else "best"
            points[step] = Point(step, kept, vectors)
    if not points:
        raise UserError(f"{run} has neither checkpoints nor a best prompt yet; train first.")
    return [points[step] for step in sorted(points)]


def _read_checkpoint(path: Path) -> Float[np.ndarray, "length d_model"]:
    """The prompt of one checkpoint, and nothing else of it."""
    place = str(path.absolute())
    try:
        metadata: Any = ocp.metadata(place, checkpointable_name="state").metadata
        names = [name for name in metadata if name.startswith("trainable.")]
        if len(names) == 1 and _PROMPT_LEAF.fullmatch(names[0]):
            leaf = metadata[names[0]]
            # As numpy: the devices that wrote it may be others than those here.
            like = dict.fromkeys(metadata, ...) | {names[0]: np.zeros(leaf.shape, leaf.dtype)}
            state: Any = ocp.load(place, like, checkpointable_name="state")
            return np.asarray(state[names[0]])
    except (ValueError, KeyError, OSError, TypeError) as error:
        raise UserError(
            f"The checkpoint {path} cannot be read ({type(error).__name__}); if the run is still "
            "going on, try again, else delete the checkpoint."
        ) from error
    raise UserError(
        f"The checkpoint {path} holds {', '.join(names) or 'nothing trained'} and no plain prompt; "
        "a trajectory needs one."
    )


def describe(
    points: Sequence[Point], vocabulary: Vocabulary | None = None, name: str = ""
) -> dict[str, Any]:
    """How far a prompt went, how straight, and whose neighbour it was on the way.

    Args:
        points: in the order of their steps, two or more of one shape.
        vocabulary: of the model; None: no neighbours.
        name: of the run.

    Returns:
        JSON-able, as `reports.trajectory` reads it. Distances are Euclidean over all numbers of a
        prompt; `cosine_with_end` is that of the whole prompts, `cosine_with_start` likewise;
        `turn` is the cosine between this step and the one before.

    Raises:
        UserError: there are fewer than two points, or their shapes differ.
    """
    if len(points) < 2:
        raise UserError(
            f"{name or 'The run'} kept the prompt of one step only; a trajectory needs two."
        )
    shapes = {point.vectors.shape for point in points}
    if len(shapes) > 1:
        told = " and ".join(str(list(shape)) for shape in sorted(shapes))
        raise UserError(f"The run's prompts have the shapes {told}; they are not of one run.")
    start, end = points[0].vectors, points[-1].vectors
    found = [
        None if vocabulary is None else nearest(point.vectors, vocabulary, 1).ids[:, 0]
        for point in points
    ]
    rows, before = [], None
    for i, point in enumerate(points):
        move = None if i == 0 else point.vectors - points[i - 1].vectors
        row: dict[str, Any] = {
            "step": point.step,
            "kept": point.kept,
            "mean_norm": float(np.linalg.norm(point.vectors, axis=1).mean()),
            "from_start": float(np.linalg.norm(point.vectors - start)),
            "from_last": None if move is None else float(np.linalg.norm(move)),
            "turn": None if move is None or before is None else _cosine(move, before),
            "cosine_with_start": _cosine(point.vectors, start),
            "cosine_with_end": _cosine(point.vectors, end),
        }
        ids = found[i]
        if ids is not None and vocabulary is not None:
            last = found[i - 1] if i else None
            row["nearest"] = [
                {"id": int(token), "text": text}
                for token, text in zip(ids, vocabulary.texts(ids), strict=True)
            ]
            row["nearest_changed"] = None if last is None else int((ids != last).sum())
        rows.append(row)
        before = move
    return {"analysis": "trajectory", "run": name, "length": len(start), "points": rows}


def _cosine(first: np.ndarray, second: np.ndarray) -> float:
    return float((unit(first.reshape(1, -1)) @ unit(second.reshape(1, -1)).T)[0, 0])
