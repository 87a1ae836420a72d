"""Whole runs with other parameterisations: they go on exactly, and what they keep is plain."""

import json
import runpy
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from small_runs import (
    changed,
    checkpoint_bits,
    metrics_lines,
    sentiment_rows,
    small_config,
)

import softprompt_jax as sp
from softprompt_jax.prompts.prompt_folders import prompts_by_task
from softprompt_jax.prompts.unfolded_prompt import UnfoldedPrompt
from softprompt_jax.tasks import Task, task
from softprompt_jax.training.tuning import train

pytestmark = pytest.mark.slow

LABELS = ("negative", "positive")


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    monkeypatch.setattr(task, "_FACTORIES", dict(task._FACTORIES))


def register(name, seed):
    splits = ("train", "validation", "test")
    rows = {split: sentiment_rows(24, 10 * seed + i) for i, split in enumerate(splits)}
    sp.register_task(
        name,
        lambda: Task(
            name=name,
            load=rows.__getitem__,
            pairs=lambda example: [(example["input"], example["target"])],
            splits=splits,
            labels=LABELS,
        ),
    )


def small(folder, kind, family="t5", **changes):
    return small_config(
        folder,
        family,
        task__test_file=str(folder / "test.jsonl"),
        prompt__parameterization=kind,
        prompt__hidden_size=16,
        **changes,
    )


def files(result):
    return {
        str(path.relative_to(result.workdir)): path.read_bytes()
        for path in sorted((Path(result.workdir) / "best").rglob("*"))
        if path.is_file()
    }


def check_goes_on(config, tmp_path):
    """A run in two parts ends with the bits of one; the result of that one."""
    whole = train(config)
    parts = changed(config, workdir=str(tmp_path / "parts"))
    train(changed(parts, train__steps=8))
    resumed = train(parts)
    assert files(resumed) == files(whole)
    assert checkpoint_bits(resumed.workdir, 12) == checkpoint_bits(whole.workdir, 12)
    assert resumed.metrics == whole.metrics
    lines = metrics_lines(whole.workdir)
    ours = metrics_lines(resumed.workdir)
    assert [line for line in lines if "train/loss" in line] == [
        line for line in ours if "train/loss" in line
    ]
    return whole


@pytest.mark.parametrize(
    ("kind", "family"), [("residual_mlp", "t5"), ("mlp", "llama"), ("lstm", "t5")]
)
def test_a_run_goes_on_and_keeps_a_plain_prompt(tmp_path, kind, family):
    result = check_goes_on(small(tmp_path, kind, family), tmp_path)
    assert result.best_prompt is not None
    assert result.best_prompt.vectors.shape == (4, 32)
    assert result.best_prompt.card["parameterization"] == kind
    # The same prompt, by the way that people take, gives the accuracy that the run told.
    predictor = sp.Predictor.load(str(tmp_path / family), {"best": result.workdir / "best"})
    assert result.metrics["test/accuracy"] == pytest.approx(accuracy(predictor, 2))


@pytest.mark.parametrize(
    ("kind", "family"), [("dept", "t5"), ("dept", "gpt2"), ("prefix", "llama"), ("prefix", "t5")]
)
def test_a_run_goes_on_and_keeps_what_is_no_plain_prompt(
    tmp_path, monkeypatch, capsys, kind, family
):
    changes = {"prompt__network_learning_rate": 0.03, "task__max_input_length": 32}
    result = check_goes_on(small(tmp_path, kind, family, **changes), tmp_path)
    assert isinstance(result.best_prompt, UnfoldedPrompt)
    assert result.best_prompt.kind == kind
    assert result.best_prompt.card["parameterization"] == kind
    best = result.workdir / "best"
    predictor = sp.Predictor.load(str(tmp_path / family), {"best": best})
    told = result.metrics["test/accuracy"]
    assert told == pytest.approx(accuracy(predictor, 2))

    capsys.readouterr()
    files = {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")}
    named = [part for split, file in files.items() for part in (f"--task.{split}-file", file)]
    arguments = ["--prompts", str(best), "--split", "test", "--json", "--task", "sentiment"]
    arguments += ["--task.max-input-length", "32"]
    monkeypatch.setattr(sys, "argv", ["softprompt_jax.evaluate", *arguments, *named])
    with pytest.raises(SystemExit) as stop:
        runpy.run_module("softprompt_jax.evaluate", run_name="__main__")
    assert stop.value.code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["mean"]["accuracy"] == pytest.approx(told)


@pytest.mark.parametrize(
    ("kind", "family", "evaluation"),
    [("dept", "gpt2", "generate"), ("prefix", "t5", "generate"), ("prefix", "llama", "likelihood")],
)
def test_other_evaluations(tmp_path, kind, family, evaluation):
    changes = {"task__evaluation": evaluation, "task__max_input_length": 32, "train__steps": 4}
    metrics = train(small(tmp_path, kind, family, **changes)).metrics
    wanted = "perplexity" if evaluation == "likelihood" else "exact_match"
    assert {f"validation/{wanted}", f"test/{wanted}"} <= set(metrics)


def accuracy(predictor, seed, prompts=None):
    """On a small run's rows, of which the test split has seed 2."""
    rows = sentiment_rows(24, seed)
    scores = predictor.score([row["input"] for row in rows], list(LABELS), prompts=prompts)
    chosen = [LABELS[best] for best in scores.argmax(1)]
    return np.mean([label == row["target"] for label, row in zip(chosen, rows, strict=True)])


def test_a_multitask_run_keeps_a_prompt_for_each_task(tmp_path):
    register("mix/one", 1)
    register("two", 2)
    config = small_config(
        tmp_path,
        task__train_file=None,
        task__validation_file=None,
        task__name="both",
        task__mixture=("mix/one", "two"),
        prompt__parameterization="multitask",
    )
    result = check_goes_on(config, tmp_path)
    assert result.best_prompt is None
    best = Path(result.workdir) / "best"
    prompts = prompts_by_task(best)
    assert prompts is not None
    assert list(prompts) == ["mix/one", "two"]
    assert {path.name for path in best.iterdir()} == {"mix--one", "two", "prompts.json"}
    one, two = (np.asarray(prompt.vectors) for prompt in prompts.values())
    assert one.shape == (4, 32)
    told = json.loads((best.parent / "result.json").read_text())
    files = [best / name / "prompt.safetensors" for name in ("mix--one", "two")]
    assert told["stored_bytes"] == sum(file.stat().st_size for file in files) > 0
    assert np.abs(one - two).max() > 1e-3
    assert {"test/mix/one/accuracy", "test/two/accuracy", "test/mean"} <= set(result.metrics)
    folders = {name: best / folder for name, folder in (("one", "mix--one"), ("two", "two"))}
    predictor = sp.Predictor.load(str(tmp_path / "t5"), folders)
    for number, (name, task_name) in enumerate((("one", "mix/one"), ("two", "two")), 1):
        told = result.metrics[f"test/{task_name}/accuracy"]
        assert told == pytest.approx(accuracy(predictor, 10 * number + 2, name))


def test_a_multitask_run_learns_from_teachers(tmp_path):
    register("one", 1)
    register("two", 2)
    teachers = tuple(str(tmp_path / name) for name in ("teacher of one", "teacher of two"))
    for seed, folder in enumerate(teachers):
        vectors = np.random.default_rng(seed).normal(size=(6, 32))
        sp.SoftPrompt(jnp.asarray(vectors, jnp.float32)).save(folder)
    config = small_config(
        tmp_path,
        task__train_file=None,
        task__validation_file=None,
        task__name="both",
        task__mixture=("one", "two"),
        prompt__parameterization="multitask",
        prompt__teachers=teachers,
    )
    result = check_goes_on(config, tmp_path)
    lines = [line for line in metrics_lines(result.workdir) if "train/loss" in line]
    assert len(lines) == 12
    assert all(line["train/distillation"] > 0 for line in lines)


def test_a_wayward_run_tells_the_distance(tmp_path):
    config = small(tmp_path, "mlp", prompt__wayward_text="a good film", prompt__wayward_gamma=0.1)
    result = train(config)
    distances = [
        line["train/wayward_distance"]
        for line in metrics_lines(result.workdir)
        if "train/loss" in line
    ]
    assert len(distances) == 12
    assert all(np.isfinite(distances))
