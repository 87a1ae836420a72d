"""What the training command prints, and how it ends."""

import importlib.util
import os
import runpy
import sys
from pathlib import Path

import pytest
from small_runs import changed, small_config, write_recipe

from softprompt_jax import command_line
from softprompt_jax.config import RunConfig
from softprompt_jax.errors import UserError
from softprompt_jax.training.workdir import TrainResult


def run(monkeypatch, capfd, *arguments):
    """Status, standard output and standard error of the command, in this process."""
    monkeypatch.setattr(sys, "argv", ["softprompt_jax.train", *map(str, arguments)])
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("softprompt_jax.train", run_name="__main__")
    captured = capfd.readouterr()
    return stop.value.code, captured.out, captured.err


def test_a_run_is_reported_and_told_again(tmp_path, monkeypatch, capfd):
    config = small_config(tmp_path, train__steps=4)
    recipe = write_recipe(config, tmp_path)
    monkeypatch.setenv("CI", "1")
    status, out, err = run(monkeypatch, capfd, "--config", recipe)
    assert status == 0, err
    assert "parameters frozen, 128 trained, float32) on 1 cpu device(s)" in err
    for line in (
        "validation/accuracy: ",
        "best step: 4",
        f"folder: {config.workdir}",
        "Use the prompt from Python:",
        f"Predictor.load({config.model.name!r}, {{'sentiment': '{config.workdir}/best'}})",
        "predictor.score([text], ['negative', 'positive'])",
    ):
        assert line in out
    # The lines that it prints run.
    lines = [line.strip() for line in out.splitlines() if line.startswith("  ")]
    scope = {"text": "the film good"}
    exec("import softprompt_jax\n" + "\n".join(lines[:-1]), scope)
    assert eval(lines[-1], scope).shape == (1, 2)

    status, again, _ = run(monkeypatch, capfd, f"--config={recipe}", "--train.log_every", "2")
    assert status == 0
    assert again == out


def test_a_run_that_diverges_fails_in_one_sentence(tmp_path, monkeypatch, capfd):
    config = changed(
        small_config(tmp_path), train__method="model_tuning", optimizer__learning_rate=3e38
    )
    recipe = write_recipe(config, tmp_path)
    monkeypatch.setenv("CI", "1")
    status, out, err = run(monkeypatch, capfd, "--config", recipe)
    assert status == 1
    assert "Traceback" not in err
    assert out == ""
    (told,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert "not finite at step 1; what was best before is in" in told
    assert (tmp_path / "run" / "best" / "model.safetensors").is_file()


@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_a_run_that_was_told_to_stop_is_no_success(monkeypatch, capsys, command):
    spec = importlib.util.find_spec(f"softprompt_jax.{command}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stopped = TrainResult(None, {}, Path("run"), None, False, 1.0, None)
    monkeypatch.setattr(module, command, lambda _: stopped)
    monkeypatch.setattr(module, "load_command_config", lambda *_: None)
    assert module.main([]) == 143
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("error", "status"), [(UserError("It is wrong; mend it."), 2), (KeyboardInterrupt(), 130)]
)
def test_statuses(monkeypatch, capfd, error, status):
    def main(arguments):
        assert list(arguments) == ["--seed", "1"]
        raise error

    monkeypatch.setattr(sys, "argv", ["command", "--seed", "1"])
    assert command_line.run_command(main) == status
    assert capfd.readouterr().err == ("error: It is wrong; mend it.\n" if status == 2 else "")


def test_a_bug_keeps_its_traceback(monkeypatch):
    def main(_):
        raise ZeroDivisionError

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(ZeroDivisionError):
        command_line.run_command(main)


def test_tokenizers_do_not_warn_of_forks(monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM")
    monkeypatch.setattr(sys, "argv", ["command"])
    assert command_line.run_command(lambda _: 0) == 0
    assert os.environ["TOKENIZERS_PARALLELISM"] == "false"


@pytest.mark.parametrize("arguments", [["--config", "FILE"], ["--config=FILE"]])
def test_config_may_stand_anywhere(tmp_path, arguments):
    recipe = write_recipe(RunConfig(seed=3), tmp_path)
    arguments = [argument.replace("FILE", str(recipe)) for argument in arguments]
    for order in ([*arguments, "--train.steps", "7"], ["--train.steps", "7", *arguments]):
        config = command_line.load_command_config(order)
        assert (config.seed, config.train.steps) == (3, 7)
    assert command_line.load_command_config([]) == RunConfig()
