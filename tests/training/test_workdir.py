"""A run's folder: one run at a time, and what is kept of its progress."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import changed, small_config, write_rows

from softprompt_jax.config import RunConfig
from softprompt_jax.errors import UserError
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.training.tuning import train
from softprompt_jax.training.workdir import Progress, Workdir


@pytest.fixture
def config(tmp_path):
    return RunConfig(workdir=str(tmp_path / "run"))


# ------------------------------------------------------------------------------- one at a time


def test_a_folder_has_one_run_at_a_time(config):
    with Workdir(config), pytest.raises(UserError, match="run is being written by another run"):
        Workdir(config)
    Workdir(config).close()


def test_another_process_has_the_folder(config):
    Workdir(config).close()
    script = (
        "import fcntl, sys\n"
        "file = open(sys.argv[1], 'ab')\n"
        "fcntl.flock(file, fcntl.LOCK_EX)\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(Path(config.workdir) / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout.readline()
        with pytest.raises(UserError, match="being written by another run; wait for it"):
            Workdir(config)
        process.kill()
    Workdir(config).close()  # a killed process leaves it free


def test_a_failed_run_leaves_the_folder_free(tmp_path, monkeypatch):
    def load(*_, **__):
        with pytest.raises(UserError, match="being written by another run"):
            Workdir(config)
        raise ZeroDivisionError

    config = small_config(tmp_path)
    monkeypatch.setattr(ModelFiles, "load", load)
    with pytest.raises(ZeroDivisionError) as failure:
        train(config)
    assert failure.tb is not None  # as a notebook keeps it, with all that its frames hold
    Workdir(config).close()


# ------------------------------------------------------------------------------------- its steps


def test_fewer_steps_than_it_has_taken_are_refused(config):
    with Workdir(config) as workdir:
        write_rows(workdir.path / "metrics.jsonl", [{"step": 70}])
        for name in ("70", "60", "80.orbax-checkpoint-tmp"):
            (workdir.path / "checkpoints" / name).mkdir(parents=True)
    for _ in range(2):
        for steps in (60, 70):
            with pytest.raises(UserError, match=f"taken 70 steps, but --train.steps is {steps}; "):
                Workdir(changed(config, train__steps=steps))
    Workdir(changed(config, train__steps=71)).close()


# ------------------------------------------------------------------------------- what it may hold


def test_what_never_took_a_step_is_no_run(config):
    """A step that was too large for the memory, say: the files are made before it."""
    with Workdir(config) as workdir:
        (workdir.path / "metrics.jsonl").touch()
        (workdir.path / "checkpoints" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    smaller = changed(config, train__batch_size=2)
    Workdir(smaller).close()
    (workdir.path / "checkpoints" / "3").mkdir()
    with pytest.raises(UserError, match=r"holds a run with --train\.batch_size 2, not 4"):
        Workdir(changed(config, train__batch_size=4))


def finish(config):
    """Makes a finished run, but for its prompt."""

    class Model:
        name, fingerprint = "tiny", "0" * 16

    with Workdir(config) as workdir:
        write_rows(workdir.path / "metrics.jsonl", [{"step": config.train.steps}])
        workdir.finish(Progress(), Model(), config.train.steps)
    return workdir.path


def test_a_result_is_not_told_of_a_run_that_went_on(config):
    path = finish(changed(config, train__steps=100))
    with Workdir(changed(config, train__steps=200)) as workdir:
        assert workdir.result() is None
    assert not (path / "result.json").exists()
    assert RunConfig.from_json((path / "config.json").read_text()).train.steps == 200
    (path / "checkpoints" / "150").mkdir(parents=True)
    with pytest.raises(UserError, match=r"taken 150 steps, but --train\.steps is 100"):
        Workdir(changed(config, train__steps=100))


def test_a_finished_run_that_is_told_again_keeps_its_config(config):
    path = finish(changed(config, train__steps=100))
    with Workdir(changed(config, train__steps=50)) as workdir:
        assert workdir.result() is not None
    assert RunConfig.from_json((path / "config.json").read_text()).train.steps == 100
    assert json.loads((path / "result.json").read_text())["steps"] == 100


@pytest.mark.parametrize("method", ["prompt_tuning", "model_tuning"])
def test_trained_layers_stay_stacked_or_not(config, method):
    """Of stacked layers the trained leaves are others, and so the checkpoint's."""
    config = changed(config, train__method=method)
    with Workdir(config) as workdir:
        write_rows(workdir.path / "metrics.jsonl", [{"step": 1}])
    Workdir(changed(config, train__remat="attention")).close()
    other = changed(config, train__remat="full")
    if method == "prompt_tuning":
        Workdir(other).close()
    else:
        with pytest.raises(UserError, match=r"holds a run with --train\.remat attention, not full"):
            Workdir(other)


# ---------------------------------------------------------------------------------- its progress


def test_a_value_that_is_not_finite_is_the_worst():
    progress = Progress()
    assert progress.evaluated(0, math.nan, {"validation/accuracy": math.nan})
    assert not progress.evaluated(1, math.nan, {})
    assert progress.evaluations_since_best == 1
    assert progress.evaluated(2, -5.0, {"validation/accuracy": -5.0})
    assert (progress.best_step, progress.evaluations_since_best) == (2, 0)
    assert not progress.evaluated(3, math.nan, {})
    assert not progress.evaluated(4, -5.0, {})
    assert progress.best_metrics == {"validation/accuracy": -5.0}


def test_the_result_is_json_whatever_was_measured(config):
    class Model:
        name, fingerprint = "tiny", "0" * 16

    def refuse(name):
        raise AssertionError(name)

    config = changed(config, train__method="model_tuning")
    with Workdir(config) as workdir:
        progress = Progress(best_step=3, best_metrics={"a": 0.5, "b": math.nan, "c": math.inf})
        workdir.finish(progress, Model(), 100)
        text = (workdir.path / "result.json").read_text()
        told = json.loads(text, parse_constant=refuse)
        assert told["metrics"] == {"a": 0.5, "b": None, "c": None}
        result = workdir.result()
    assert result is not None
    assert result.metrics["a"] == 0.5
    assert math.isnan(result.metrics["b"])


def test_a_checkpoint_of_another_version_is_told():
    for saved in ({"best_value": 0.5, "best_epoch": 3}, ["best_value"]):
        with pytest.raises(UserError, match="run is of another version of softprompt_jax"):
            Progress.restored(saved, "m", "d", Path("run"))


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [("other", "d", "other model weights"), ("m", "other", "other training examples")],
)
def test_other_weights_or_examples_are_refused(model, data, message):
    saved = {"best_value": 0.5, "model_fingerprint": "m", "data_fingerprint": "d"}
    with pytest.raises(UserError, match=f"run holds a run on {message}; bring them back"):
        Progress.restored(saved, model, data, Path("run"))


def test_what_was_not_kept_is_not_compared():
    assert Progress.restored({"best_value": 0.5}, "m", "d", Path("run")).best_value == 0.5
    both = {"model_fingerprint": "m", "data_fingerprint": "d"}
    for data in ("d", None):
        assert Progress.restored(both, "m", data, Path("run")).data_fingerprint == "d"


def test_a_run_does_not_go_on_with_other_rows(tmp_path):
    config = small_config(tmp_path, train__steps=2)
    train(config)
    path = Path(config.task.train_file)
    path.write_text(path.read_text() + '{"input": "the film good", "target": "positive"}\n')
    with pytest.raises(UserError, match="holds a run on other training examples"):
        train(changed(config, train__steps=4))
