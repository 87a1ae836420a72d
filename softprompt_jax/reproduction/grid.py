"""A grid of runs: each a config with a folder of its own, so that none is ever run twice.

A run's folder is named after all that decides what it computes. So equal runs of several
experiments are one run, a finished one is known by its `result.json`, one that diverged by its
`diverged.json` (it would diverge again; without the file it is tried again), a killed one goes on
where it was, and one whose recipe was changed is another one.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import re
import shutil
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import filelock
import jax

from softprompt_jax.compile_cache import use_compile_cache
from softprompt_jax.config import RunConfig, TaskOptions, flatten
from softprompt_jax.config_checks import check
from softprompt_jax.errors import UserError
from softprompt_jax.files import write_text
from softprompt_jax.models import resolve_model
from softprompt_jax.reproduction.presets import Changes, Preset
from softprompt_jax.training import processes
from softprompt_jax.training.loop import DivergedError
from softprompt_jax.training.setup import start_words, tasks_from_options
from softprompt_jax.training.tuning import train
from softprompt_jax.training.workdir import MAY_DIFFER, versions

# What does not decide what a run's numbers are. A longer run is another one here: its best step
# may be a later one.
_IRRELEVANT = MAY_DIFFER - {"train.steps", "train.keep_steps"}


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a figure or table; it is run on each task with each seed.

    Attributes:
        coordinates: what the point is, by name, in the order of tables.
        changes: of the preset's recipe.
        tasks: one run each; None: the preset's.
        seeds: None: the preset's.
    """

    coordinates: Mapping[str, Any]
    changes: Changes = dataclasses.field(default_factory=dict)
    tasks: tuple[TaskOptions, ...] | None = None
    seeds: tuple[int, ...] | None = None


@dataclasses.dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        coordinates: of its point.
        config: with its folder.
        note: what is not as the point asks for, and why; "" for nothing.
    """

    coordinates: Mapping[str, Any]
    config: RunConfig
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes:
        metrics: of its best step, by split and name; empty if it diverged.
        told: all of `result.json`, or of `diverged.json`.
        diverged: the sentence that told so; None: the run took all its steps.
    """

    metrics: Mapping[str, float]
    told: Mapping[str, Any]
    diverged: str | None = None


def make_cells(preset: Preset, points: Iterable[Point], folder: Path) -> list[Cell]:
    """The runs of some points, checked.

    Args:
        preset: gives recipe, tasks and seeds.
        points: of an experiment.
        folder: that has the folders of all runs, in `runs`.

    Raises:
        UserError: an option that no run can have, or a task whose data cannot be read here.
    """
    cells = []
    for point in points:
        for task in preset.tasks if point.tasks is None else point.tasks:
            for seed in preset.seeds if point.seeds is None else point.seeds:
                config = dataclasses.replace(preset.recipe, task=task, seed=seed)
                config, note = _with_a_start_that_fits(config.replaced(point.changes))
                cache = config.task.cache_dir or str(folder / "tokens")
                config = config.replaced({"task.cache_dir": cache})
                config = config.replaced({"workdir": str(folder / "runs" / _folder_name(config))})
                check(config)
                cells.append(Cell(point.coordinates, config, note))
    return cells


def _with_a_start_that_fits(config: RunConfig) -> tuple[RunConfig, str]:
    """A prompt starts from sampled vocabulary where the task's labels are none, or too many."""
    if config.train.method == "model_tuning" or config.prompt.init != "class_labels":
        return config, ""
    words = start_words(tasks_from_options(config.task))
    if 0 < len(words) <= config.prompt.length:
        return config, ""
    length, task = config.prompt.length, config.task.name
    why = (
        f"has no room for the {len(words)} labels of {task}"
        if words
        else f"finds no labels in {task}"
    )
    note = (
        f"A prompt of length {length} {why} and starts from sampled vocabulary; the paper does not "
        "tell what it did."
    )
    return config.replaced({"prompt.init": "sampled_vocab"}), note


def _folder_name(config: RunConfig) -> str:
    """A name that is readable, and differs where a run's numbers may.

    Of what differs from the defaults only: a later version's new option leaves finished runs where
    they are found. (Where a default itself changes, the run's folder tells, which has all values.)
    """
    defaults = flatten(RunConfig())
    relevant = {
        name: value
        for name, value in flatten(config).items()
        if name not in _IRRELEVANT and value != defaults[name]
    }
    digest = hashlib.sha256(json.dumps(relevant, sort_keys=True).encode()).hexdigest()[:10]
    parts = [*Path(config.model.name).parts[-2:], config.task.name, f"seed{config.seed}", digest]
    return "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)


# ------------------------------------------------------------------------------------- running


def run_cells(
    cells: Sequence[Cell], workers: int = 1, say: Callable[[str], None] | None = None
) -> list[Outcome]:
    """Runs what is not finished yet.

    Args:
        cells: of one or more points; equal ones are run once.
        workers: processes that share the runs. Each has all devices, so more than one is for CPU.
        say: is told how far it is; None: nobody.

    Returns:
        The outcome of each cell, in order.

    Raises:
        UserError: a model is not found, or workers are asked for where devices cannot be shared.
        LostProcessError: a worker was killed; the next call goes on.
        KeyboardInterrupt: a run was told to stop; the next call goes on.
    """
    tell = say or (lambda _: None)
    if workers > 1 and jax.default_backend() != "cpu":
        raise UserError(
            f"--workers {workers} would share one {jax.default_backend()} between processes; "
            "leave it out."
        )
    configs = {cell.config.workdir: cell.config for cell in cells}
    outcomes = {folder: outcome for folder in configs if (outcome := finished(Path(folder)))}
    left = [config for folder, config in configs.items() if folder not in outcomes]
    for name in dict.fromkeys(config.model.name for config in left):
        resolve_model(name)
    if left:
        diverged = sum(outcome.diverged is not None for outcome in outcomes.values())
        of_them = f" ({diverged} diverged)" if diverged else ""
        tell(f"{len(configs)} runs, {len(outcomes)} of them finished before{of_them}.")
    run = _run_here if workers == 1 else _run_in_workers
    for config, outcome in run(left, workers):
        outcomes[config.workdir] = outcome
        told = outcome.diverged or ", ".join(
            f"{name} {value:.3f}" for name, value in outcome.metrics.items()
        )
        tell(f"[{len(outcomes)}/{len(configs)}] {Path(config.workdir).name}: {told}")
    return [outcomes[cell.config.workdir] for cell in cells]


def run_one(config: RunConfig) -> Outcome:
    """Runs a config, or goes on with it; waits if another process is at it.

    Raises:
        UserError: as `train`.
        KeyboardInterrupt: it was told to stop.
    """
    folder = Path(config.workdir)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_name(f".{folder.name}.lock")):
        if finished(folder) is None:
            try:
                if not train(config).finished:
                    raise KeyboardInterrupt
            except DivergedError as error:
                _keep_diverged(config, str(error))
            finally:
                jax.clear_caches()  # or the memory of a long grid fills with compiled functions
        if config.train.method == "model_tuning":  # as large as the model; nothing reads them
            shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    outcome = finished(folder)
    assert outcome is not None
    return outcome


def _keep_diverged(config: RunConfig, sentence: str) -> None:
    told = {
        "diverged": sentence,
        "seed": config.seed,
        "model": config.model.name,
        "versions": versions(),
    }
    folder = Path(config.workdir)
    folder.mkdir(exist_ok=True)
    write_text(folder / "diverged.json", json.dumps(told, indent=2) + "\n")


def finished(folder: Path) -> Outcome | None:
    """The outcome of a run that took all its steps, or diverged; None of any other.

    Args:
        folder: of the run.
    """
    for name in ("result.json", "diverged.json"):
        with contextlib.suppress(FileNotFoundError):
            told = json.loads((folder / name).read_text(encoding="utf-8"))
            return Outcome(told.get("metrics", {}), told, told.get("diverged"))
    return None


def _run_here(configs: Sequence[RunConfig], _: int) -> Iterable[tuple[RunConfig, Outcome]]:
    for config in configs:
        yield config, run_one(config)


def _run_in_workers(
    configs: Sequence[RunConfig], workers: int
) -> Iterable[tuple[RunConfig, Outcome]]:
    with concurrent.futures.ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), _start_worker
    ) as pool:
        try:
            futures = {pool.submit(run_one, config): config for config in configs}
            for future in concurrent.futures.as_completed(futures):
                yield futures[future], future.result()
        except BrokenProcessPool:
            raise processes.LostProcessError(
                "A process of --workers was killed, perhaps for want of memory; the same command "
                "goes on where the runs are, with fewer --workers if that was it."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _start_worker() -> None:
    os.environ["CI"] = "1"  # no progress bars: those of several workers would mix
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    use_compile_cache()
    # The pool's own workers would wait for ever for a parent that was killed.
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def cached_json(path: Path, facts: Any, make: Callable[[], Any]) -> Any:
    """What `make` gave the last time for the same facts, or gives now.

    Args:
        path: of the JSON file that keeps it.
        facts: JSON-able; all that decides what comes out.
        make: gives something JSON-able.
    """
    facts = json.loads(json.dumps(facts))
    with contextlib.suppress(FileNotFoundError):
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["facts"] == facts:
            return told["result"]
    result = json.loads(json.dumps(make()))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps({"facts": facts, "result": result}) + "\n")
    return result


# ---------------------------------------------------------------------------------------- scores


Run = tuple[Cell, Outcome]


def by_point(
    cells: Sequence[Cell], outcomes: Sequence[Outcome]
) -> list[tuple[Mapping[str, Any], list[Run]]]:
    """The coordinates of each point and its runs, in order.

    Args:
        cells: of all points.
        outcomes: of the cells.
    """
    points: dict[tuple[Any, ...], tuple[Mapping[str, Any], list[Run]]] = {}
    for cell, outcome in zip(cells, outcomes, strict=True):
        key = tuple(cell.coordinates.items())
        points.setdefault(key, (cell.coordinates, []))[1].append((cell, outcome))
    return list(points.values())


def task_scores(options: TaskOptions, metrics: Mapping[str, float]) -> dict[str, float]:
    """The score of each task of a run, in percent.

    It is the mean of the task's metrics on its test split, which chose nothing; where there is none
    (SuperGLUE), on the validation split, as in the paper.

    Args:
        options: the run's tasks.
        metrics: of its best step.
    """
    tasks = tasks_from_options(options)
    scores = {}
    for task in tasks:
        split = scored_split(task.splits)
        place = f"{split}/{task.name}" if len(tasks) > 1 else split
        scores[task.name] = 100 * task.main_value(
            {metric: metrics[f"{place}/{metric}"] for metric in task.metrics}
        )
    return scores


def scored_split(splits: Sequence[str]) -> str:
    """The split that a task's score is of."""
    return "test" if "test" in splits else "validation"
