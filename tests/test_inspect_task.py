"""What the command prints before a run, and what it leaves behind."""

import json
import os
import runpy
import sys

import pytest
from small_runs import changed, small_config, write_recipe, write_rows

import softprompt_jax as sp
from softprompt_jax.models import loading


@pytest.fixture
def command(monkeypatch, capfd):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["softprompt_jax.inspect_task", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("softprompt_jax.inspect_task", run_name="__main__")
        captured = capfd.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


@pytest.fixture
def config(tmp_path):
    """Four training rows, one of which is also in the validation file."""
    config = small_config(tmp_path, task__max_input_length=5)
    rows = [
        {"input": "the film good", "target": "positive"},
        {"input": "the film bad", "target": "negative"},
        {"input": "a film great the a film", "target": "positive"},
        {"input": "awful film", "target": "negative"},
    ]
    write_rows(tmp_path / "train.jsonl", rows)
    write_rows(tmp_path / "validation.jsonl", [rows[1], {"input": "good", "target": "positive"}])
    return config


def test_report_and_examples(command, config, tmp_path, monkeypatch):
    def no_weights(*_):
        pytest.fail("the weights were read")

    monkeypatch.setattr(loading.ModelFiles, "load", no_weights)
    status, out, err = command("--config", write_recipe(config, tmp_path), "--examples", "3")
    assert status == 0, err
    lines = [" ".join(line.split()) for line in out.splitlines()]
    # Tokens with </s>; the third row of six words is cut to five tokens.
    assert "train 4 3 4 5 5 25.0 % 2 2 2 2 0 %" in lines
    assert "validation 2 2 2 4 4 0 % 2 2 2 2 0 %" in lines
    assert "train labels: negative 50.0 % (2), positive 50.0 % (2)" in out
    assert "warning: 1 of 2 validation inputs also occur in train" in out
    assert "Training compiles 1 shape" in out
    assert "sentiment, training example 1:" in out
    assert "input, 4 tokens: [4 prompt vectors] ▁the|▁film|▁good|</s>" in out
    assert "target, 2 tokens: ▁positive|</s>" in out
    assert out.count("training example") == 3
    # Nothing but the tokens was written, and a run may start in the folder.
    assert os.listdir(config.workdir) == ["cache"]
    monkeypatch.undo()
    assert sp.train(changed(config, train__steps=1)).finished


def test_json(command, config, tmp_path):
    recipe = write_recipe(config, tmp_path)
    status, out, _ = command("--config", recipe, "--json", "--train.max_shapes", "2")
    assert status == 0
    told = json.loads(out)
    assert told["tasks"]["sentiment"]["splits"]["train"]["label_counts"] == {
        "negative": 2,
        "positive": 2,
    }
    assert told["tasks"]["sentiment"]["duplicates"] == [
        {"in": "train", "of": "validation", "rows": 1}
    ]
    assert len(told["shapes"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--examples", "-1"], "--examples is -1; it must be at least 0."),
        (["--examples", "many"], "invalid int value: 'many'; see --help"),
        (["--task.name", "super_glue/bolq"], "did you mean super_glue/boolq?"),
        (["--train.stepz", "1"], "did you mean --train.steps?"),
    ],
)
def test_mistakes(command, arguments, message):
    status, out, err = command(*arguments)
    assert status == 2
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert len(err.splitlines()) == 1
