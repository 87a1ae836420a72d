"""Cells and their folders, and that no run is made twice."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reproduction.tiny_preset import tiny_preset

from softprompt_jax.config import PromptOptions, RunConfig, TaskOptions
from softprompt_jax.errors import UserError
from softprompt_jax.reproduction import grid
from softprompt_jax.reproduction.experiment import of_size
from softprompt_jax.reproduction.grid import (
    Point,
    make_cells,
    run_cells,
    run_one,
    task_scores,
)
from softprompt_jax.reproduction.presets import PAPER, SMALL, SMOKE, paper_task
from softprompt_jax.training import processes
from softprompt_jax.training.loop import DivergedError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of models and data; runs go elsewhere."""
    return tmp_path_factory.mktemp("tiny")


def points_of(preset, **changes):
    return [Point({"size": size.label}, of_size(size, changes)) for size in preset.sizes]


def test_a_point_is_run_on_each_task_with_each_seed(folder, tmp_path):
    preset = tiny_preset(folder, tasks=2)
    cells = make_cells(preset, points_of(preset), tmp_path / "out")
    told = [
        (cell.coordinates["size"], cell.config.task.name, cell.config.seed, cell.config.model.name)
        for cell in cells
    ]
    assert told == [
        (size.label, task, seed, size.model)
        for size in preset.sizes
        for task in ("sentiment", "sentiment1")
        for seed in (0, 1)
    ]
    folders = {cell.config.workdir for cell in cells}
    assert len(folders) == 8
    assert {str(Path(folder).parent) for folder in folders} == {str(tmp_path / "out" / "runs")}


def test_folders_differ_where_the_numbers_may(folder, tmp_path):
    preset = tiny_preset(folder, seeds=(0,))
    preset = dataclasses.replace(preset, sizes=preset.sizes[:1])

    def name(changes, place=tmp_path):
        (cell,) = make_cells(preset, [Point({}, of_size(preset.sizes[0], changes))], place)
        return Path(cell.config.workdir).name

    plain = name({})
    for changes in (
        {"prompt.length": 5},
        {"train.steps": 8},
        {"optimizer.learning_rate": 0.2},
        {"task.max_input_length": 100},
    ):
        assert name(changes) != plain
    # Where it runs and what it tells is no part of it.
    for changes in ({"train.log_every": 3}, {"parallel.devices": 2}, {"train.remat": "full"}):
        assert name(changes) == plain
    assert name({}, tmp_path / "elsewhere") == plain


def test_a_prompt_without_room_for_the_labels_starts_from_the_vocabulary(folder, tmp_path):
    preset = tiny_preset(folder, seeds=(0,))
    changes = {"prompt.init": "class_labels"}
    for length, init in ((1, "sampled_vocab"), (2, "class_labels")):
        points = points_of(preset, **changes, **{"prompt.length": length})
        for cell in make_cells(preset, points, tmp_path):
            assert cell.config.prompt.init == init
            assert ("no room for the 2 labels of sentiment" in cell.note) == (length == 1)
    for cell in make_cells(PAPER, [Point({}, tasks=(paper_task("squad"),))], tmp_path):
        assert cell.config.prompt.init == "sampled_vocab"
        assert "finds no labels in squad" in cell.note


def test_mistakes_are_told_before_any_run(folder, tmp_path):
    preset = tiny_preset(folder)
    with pytest.raises(UserError, match=r"prompt\.length is 0"):
        make_cells(preset, points_of(preset, **{"prompt.length": 0}), tmp_path)
    cells = make_cells(preset, points_of(preset, **{"model.name": "no_such_model"}), tmp_path)
    with pytest.raises(UserError, match="no_such_model"):
        run_cells(cells)
    assert not (tmp_path / "runs").exists()


def test_runs_are_made_once(folder, tmp_path, monkeypatch):
    preset = tiny_preset(folder, seeds=(0, 1))
    preset = dataclasses.replace(preset, sizes=preset.sizes[:1])
    made = []
    train = grid.train

    def counted(config):
        made.append(config.seed)
        return train(config)

    monkeypatch.setattr(grid, "train", counted)
    cells = make_cells(preset, points_of(preset), tmp_path)
    said = []
    first = run_cells([*cells, *cells], say=said.append)
    assert made == [0, 1]
    assert first[:2] == first[2:]
    assert [outcome.told["seed"] for outcome in first] == [0, 1, 0, 1]
    for cell, outcome in zip(cells, first[:2], strict=True):
        result = json.loads((Path(cell.config.workdir) / "result.json").read_text())
        assert outcome.metrics == result["metrics"]
        assert "test/accuracy" in outcome.metrics
    assert said[0] == "2 runs, 0 of them finished before."
    assert said[1].startswith("[1/2] ")

    assert run_cells(cells) == first[:2]
    assert made == [0, 1]
    # The run whose result is missing is made again, and only that.
    (Path(cells[1].config.workdir) / "result.json").unlink()
    assert run_cells(cells)[1].metrics == first[1].metrics
    assert made == [0, 1, 1]


def test_a_run_that_diverges_does_not_end_the_grid(folder, tmp_path, monkeypatch):
    preset = tiny_preset(folder, seeds=(0, 1))
    preset = dataclasses.replace(preset, sizes=preset.sizes[:1])
    train = grid.train

    def sometimes(config):
        if config.seed == 0:
            raise DivergedError("not finite")
        return train(config)

    monkeypatch.setattr(grid, "train", sometimes)
    cells = make_cells(preset, points_of(preset), tmp_path)
    first, second = run_cells(cells)
    assert (first.metrics, first.told["seed"], first.diverged) == ({}, 0, "not finite")
    assert second.diverged is None

    # It is not tried again, also by a grid that was killed before its other runs.
    shutil.rmtree(cells[1].config.workdir)
    said = []
    assert run_cells(cells, say=said.append)[0] == first
    assert said[0] == "2 runs, 1 of them finished before (1 diverged)."
    assert said[1].startswith("[2/2] ")
    monkeypatch.setattr(grid, "train", lambda _: pytest.fail("trained again"))
    assert run_one(cells[0].config) == first


def test_what_diverged_model_tuning_no_longer_needs_is_removed(folder, tmp_path, monkeypatch):
    preset = tiny_preset(folder, seeds=(0,))
    preset = dataclasses.replace(preset, sizes=preset.sizes[:1])
    (cell,) = make_cells(preset, points_of(preset, **preset.model_tuning), tmp_path)
    folder = Path(cell.config.workdir)

    def diverges(_):
        (folder / "checkpoints" / "2").mkdir(parents=True)
        raise DivergedError("not finite")

    monkeypatch.setattr(grid, "train", diverges)
    assert run_one(cell.config).diverged == "not finite"
    assert [path.name for path in folder.iterdir()] == ["diverged.json"]


@pytest.mark.slow
def test_a_killed_worker_is_one_sentence(folder, tmp_path, monkeypatch):
    preset = tiny_preset(folder, seeds=(0,))
    cells = make_cells(preset, points_of(preset), tmp_path)
    monkeypatch.setattr(grid, "run_one", killed)
    with pytest.raises(processes.LostProcessError, match=r"killed, .* with fewer --workers"):
        run_cells(cells, workers=2)


def killed(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_model_tuning_no_longer_needs_is_removed(folder, tmp_path):
    preset = tiny_preset(folder, seeds=(0,))
    preset = dataclasses.replace(preset, sizes=preset.sizes[:1])
    (cell,) = make_cells(preset, points_of(preset, **preset.model_tuning), tmp_path)
    (outcome,) = run_cells([cell])
    assert outcome.metrics
    assert not (Path(cell.config.workdir) / "checkpoints").exists()


def test_scores_are_of_the_test_split_if_there_is_one(folder):
    preset = tiny_preset(folder, tasks=2)
    metrics = {"validation/accuracy": 0.5, "test/accuracy": 0.25}
    assert task_scores(preset.tasks[0], metrics) == {"sentiment": 25.0}
    assert task_scores(preset.tasks[1], metrics) == {"sentiment1": 50.0}
    mixed = dataclasses.replace(
        preset.tasks[0],
        train_file=None,
        validation_file=None,
        test_file=None,
        mixture=("glue/sst2", "movie_reviews"),
    )
    metrics = {"validation/glue/sst2/accuracy": 0.75, "test/movie_reviews/accuracy": 0.5}
    assert task_scores(mixed, metrics) == {"glue/sst2": 75.0, "movie_reviews": 50.0}


def test_the_presets_hold_together(tmp_path):
    for preset in (SMALL, SMOKE):
        cells = make_cells(preset, points_of(preset), tmp_path)
        assert len(cells) == len(preset.sizes) * len(preset.tasks) * len(preset.seeds)
    assert PAPER.tasks[0].name == "super_glue/boolq"
    recipe = PAPER.recipe
    assert (recipe.train.steps, recipe.train.batch_size, recipe.prompt.length) == (30_000, 32, 100)
    assert PAPER.seeds == (0, 1, 2)


def test_finished_runs_are_found_by_later_versions(tmp_path):
    """This name has to stay: only an option that is given, not one that is new, may change it."""
    recipe = RunConfig(prompt=PromptOptions(length=5))
    preset = dataclasses.replace(
        SMOKE, recipe=recipe, tasks=(TaskOptions(name="sms_spam"),), seeds=(1,)
    )
    names = []
    for changes in ({}, {"train.loss": "labels"}, {"train.log_every": 3}):
        (cell,) = make_cells(preset, [Point({}, changes)], tmp_path)
        names.append(Path(cell.config.workdir).name)
    assert names[0] == names[2] == "smollm2_135m-sms_spam-seed1-edc8daf71b"
    assert names[1] != names[0]


def test_a_family_gives_the_models(tmp_path):
    (nano,) = SMOKE.from_family(None).sizes
    assert (nano.model, nano.corrupted) == ("t5-nano", "runs/pretraining/t5-nano/best")
    (nano,) = SMOKE.from_family(str(tmp_path)).sizes
    assert nano.model == f"{tmp_path}/t5-nano-lm/best"
    assert nano.corrupted == f"{tmp_path}/t5-nano/best"
    with pytest.raises(UserError, match="--family"):
        SMOKE.from_family(str(tmp_path / "none"))


SCRIPT = """
import sys
from pathlib import Path
from reproduction.tiny_preset import tiny_preset
from reproduction.test_grid import points_of
from softprompt_jax.reproduction.grid import make_cells, run_cells

if __name__ == "__main__":
    folder, workers = Path(sys.argv[1]), int(sys.argv[2])
    preset = tiny_preset(folder, seeds=(0, 1, 2))
    cells = make_cells(preset, points_of(preset), folder)
    print("ready", flush=True)
    for outcome in run_cells(cells, workers, lambda line: print(line, flush=True)):
        print(sorted(outcome.metrics.items()), flush=True)
"""


def script(folder, workers):
    tests = Path(__file__).parents[1]
    path = f"{tests}{os.pathsep}{tests.parent}"
    environment = os.environ | {"PYTHONPATH": path, "CI": "1", "JAX_NUM_CPU_DEVICES": "1"}
    program = folder / "grid_script.py"
    program.write_text(SCRIPT)
    return subprocess.Popen(
        [sys.executable, str(program), str(folder), str(workers)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_workers_and_a_kill_change_nothing(tmp_path):
    tiny_preset(tmp_path)
    with script(tmp_path, 2) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("[1/6]"):
                break
        os.kill(process.pid, signal.SIGKILL)
    finished = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
    assert 1 <= len(finished) < 6
    time.sleep(3)  # the killed command's workers end with it
    with script(tmp_path, 2) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    before = {path: path.stat().st_mtime_ns for path in finished}
    assert before == finished
    metrics = [line for line in out.splitlines() if line.startswith("[(")]
    assert len(metrics) == 6

    alone = tiny_preset(tmp_path, seeds=(0, 1, 2))
    cells = make_cells(alone, points_of(alone), tmp_path / "alone")
    assert metrics == [str(sorted(outcome.metrics.items())) for outcome in run_cells(cells)]
