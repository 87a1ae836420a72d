"""Whole runs in this process: what they leave behind, and how they end."""

import dataclasses
import json
import shutil
import types

import numpy as np
import pytest
from small_runs import changed, checkpoint_bits, metrics_lines, small_config

from softprompt_jax.config import RunConfig
from softprompt_jax.errors import UserError
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.training.loop import DivergedError
from softprompt_jax.training.setup import check_positions
from softprompt_jax.training.tuning import train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def config(folder):
    """12 steps, evaluated before and after each fourth."""
    return small_config(
        folder,
        task__test_file=str(folder / "test.jsonl"),
        train__evaluate_first=True,
        train__keep_steps=(0, 6, 8),
    )


@pytest.fixture(scope="module")
def result(config):
    return train(config)


@pytest.fixture
def no_weights(monkeypatch):
    """Fails where weights are about to be read."""
    monkeypatch.setattr(ModelFiles, "load", lambda *_, **__: pytest.fail("the weights were read"))


def test_the_folder_of_a_run(config, result):
    workdir = result.workdir
    assert RunConfig.from_json((workdir / "config.json").read_text()) == config
    assert list((workdir / "tensorboard").glob("events*"))
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["12", "8"]
    told = json.loads((workdir / "result.json").read_text())
    assert told["metrics"] == dict(result.metrics)
    assert (told["steps"], told["best_step"], told["seed"]) == (12, result.best_step, 0)
    assert {"jax", "softprompt-jax"} <= told["versions"].keys()
    assert result.finished
    assert result.examples_per_second > 0
    prompt = SoftPrompt.load(workdir / "best")
    np.testing.assert_array_equal(prompt.vectors, result.best_prompt.vectors)
    assert prompt.card["task"] == "sentiment"
    assert prompt.card["labels"] == ["negative", "positive"]
    assert prompt.card["model_fingerprint"] == told["model_fingerprint"]


def test_prompts_are_kept_at_the_steps_that_were_asked_for(result):
    kept = result.workdir / "kept"
    assert sorted(path.name for path in kept.iterdir()) == ["0", "6", "8"]
    prompts = {int(path.name): SoftPrompt.load(path) for path in kept.iterdir()}
    assert all(prompt.card["step"] == step for step, prompt in prompts.items())
    norms = [np.linalg.norm(prompts[step].vectors - prompts[0].vectors) for step in (0, 6, 8)]
    assert norms[0] == 0 < norms[1] != norms[2]
    evaluated = {
        line["step"]: line["validation/accuracy"]
        for line in metrics_lines(result.workdir)
        if "validation/accuracy" in line
    }
    assert prompts[8].card["metrics"]["validation/accuracy"] == evaluated[8]
    assert prompts[6].card["metrics"] == {}  # it was not evaluated there


def test_metrics_lines(result):
    lines = metrics_lines(result.workdir)
    trained = [line["step"] for line in lines if "train/loss" in line]
    assert trained == list(range(1, 13))
    evaluated = {
        line["step"]: line["validation/accuracy"] for line in lines if "validation/accuracy" in line
    }
    assert list(evaluated) == [0, 4, 8, 12]
    assert [line["step"] for line in lines if "test/accuracy" in line] == [12]
    assert result.metrics["validation/accuracy"] == max(evaluated.values())
    assert evaluated[result.best_step] == max(evaluated.values())


@pytest.mark.usefixtures("no_weights")
def test_a_finished_run_is_told_again_at_once(config, result):
    again = train(config)
    assert (again.metrics, again.best_step, again.finished) == (
        result.metrics,
        result.best_step,
        True,
    )
    np.testing.assert_array_equal(again.best_prompt.vectors, result.best_prompt.vectors)


@pytest.mark.usefixtures("no_weights", "result")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt__length": 5}, "holds a run with --prompt.length 4, not 5"),
        ({"seed": 1}, "holds a run with --seed 0, not 1"),
        ({"optimizer__schedule": "linear"}, "--optimizer.schedule constant, not linear"),
        ({"resume": "never"}, "already holds a run"),
    ],
)
def test_another_run_in_the_folder_is_refused(config, changes, message):
    with pytest.raises(UserError, match=message):
        train(changed(config, **changes))


def test_more_steps_go_on_to_the_bits_of_one_long_run(config, result, folder):
    long = train(changed(config, workdir=str(folder / "long"), train__steps=20))
    shutil.copytree(result.workdir, folder / "extended")
    extended = train(changed(config, workdir=str(folder / "extended"), train__steps=20))
    assert checkpoint_bits(extended.workdir, 20) == checkpoint_bits(long.workdir, 20)
    for file in ("prompt.safetensors", "prompt.json"):
        ours, theirs = (run.workdir / "best" / file for run in (extended, long))
        assert ours.read_bytes() == theirs.read_bytes()
    assert extended.metrics == long.metrics
    assert metrics_lines(extended.workdir) == metrics_lines(long.workdir)


def test_patience(config, folder, no_weights_later):
    config = changed(
        config,
        workdir=str(folder / "early"),
        optimizer__learning_rate=1e-12,
        optimizer__weight_decay=0.0,
        train__evaluate_first=False,
        train__evaluate_every=2,
        train__patience=2,
        train__steps=40,
    )
    result = train(config)
    lines = metrics_lines(result.workdir)
    # The first evaluation is the best, and two more are not better.
    assert result.best_step == 2
    assert max(line["step"] for line in lines) == 6
    assert json.loads((result.workdir / "result.json").read_text())["stopped_early"]
    no_weights_later()
    assert train(config).best_step == 2
    assert train(changed(config, train__steps=60)).metrics == result.metrics


@pytest.fixture
def no_weights_later(monkeypatch):
    return lambda: monkeypatch.setattr(ModelFiles, "load", lambda *_, **__: pytest.fail("read"))


def test_a_loss_that_is_not_finite(config, folder):
    config = changed(
        config,
        workdir=str(folder / "diverged"),
        optimizer__learning_rate=1e30,
        train__evaluate_first=False,
    )
    with pytest.raises(DivergedError, match=r"not finite at step 1; .*best.* --optimizer"):
        train(config)
    best = SoftPrompt.load(folder / "diverged" / "best")
    assert np.abs(best.vectors).max() <= 0.5  # as it started
    assert not (folder / "diverged" / "result.json").exists()


@pytest.mark.usefixtures("no_weights")
def test_a_run_that_never_started_leaves_its_folder_free(config, folder):
    """A label that is too long is found once the folder is made, and mended by another setting."""
    config = changed(config, workdir=str(folder / "free"), task__max_target_length=1)
    with pytest.raises(UserError, match="raise max_target_length"):
        train(config)
    with pytest.raises(pytest.fail.Exception, match="the weights were read"):
        train(changed(config, task__max_target_length=4))


@pytest.mark.parametrize(
    ("changes", "mend"),
    [
        ({"task__max_input_length": 57}, r"63 tokens .*; lower --task\.max_input_length to 54"),
        ({"task__max_input_length": 55, "train__method": "model_tuning"}, None),
        ({"task__max_input_length": 59, "train__method": "model_tuning"}, "lower .* to 58"),
        ({"prompt__length": 60}, "use a shorter prompt or shorter targets"),
    ],
)
def test_a_model_of_few_positions(changes, mend):
    """Also where the whole model is tuned, and there is no prompt among them."""
    config = changed(RunConfig(), **{"prompt__length": 4, "task__max_target_length": 2, **changes})
    model_config = types.SimpleNamespace(max_positions=60)
    if mend is None:
        check_positions(config, model_config)
        return
    with pytest.raises(UserError, match=mend):
        check_positions(config, model_config)
    check_positions(config, types.SimpleNamespace(max_positions=None))


@pytest.mark.usefixtures("no_weights")
def test_a_task_without_validation_split_is_refused(config, monkeypatch, folder):
    from softprompt_jax.training import tuning

    (task,) = tuning.tasks_from_options(config.task)
    without = dataclasses.replace(task, splits=("train", "test"))
    monkeypatch.setattr(tuning, "tasks_from_options", lambda *_: [without])
    with pytest.raises(UserError, match="has no 'validation' split"):
        train(changed(config, workdir=str(folder / "no-validation")))


def test_devices_and_micro_batches_make_no_difference(folder):
    """A whole run of a causal model, with dropout and greedy answers, on 1 device and on 8."""
    one = small_config(
        folder,
        "llama",
        workdir=str(folder / "one-device"),
        task__evaluation="generate",
        model__dropout_rate=0.1,
        train__steps=4,
        train__batch_size=16,
    )
    eight = changed(
        one,
        workdir=str(folder / "eight-devices"),
        parallel__devices=8,
        train__accumulation=2,
        train__evaluate_batch_size=5,
    )
    train(one)
    train(eight)
    lines = [metrics_lines(config.workdir) for config in (one, eight)]
    assert len(lines[0]) == 5
    for a, b in zip(*lines, strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_a_bfloat16_model_has_a_float32_prompt(folder):
    config = small_config(
        folder, workdir=str(folder / "bfloat16"), model__dtype="bfloat16", train__steps=2
    )
    prompt = train(config).best_prompt
    assert prompt.vectors.dtype == np.float32
    # The prompt is not rounded to bfloat16, in which small updates would be lost.
    assert (prompt.vectors.astype("bfloat16").astype("float32") != prompt.vectors).mean() > 0.9
