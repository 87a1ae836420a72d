"""The command: what it prints and writes, and that a mistake is one sentence."""

import importlib.util
import json
import os
import runpy
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread
from small_runs import small_config
from tiny_models import WORDS, make_tiny

import softprompt_jax as sp
from softprompt_jax.config import RunConfig
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.prompts import SoftPrompt


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run of a tiny model, another prompt of it, another model, a prompt of another width."""
    folder = tmp_path_factory.mktemp("analyze")
    config = small_config(folder, prompt__init="class_labels")
    sp.train(config)
    noise = SoftPrompt.create(sp.load_model(config.model.name), 4, "random_uniform")
    card = {**noise.card, "task": "sentiment", "labels": ["negative", "positive"]}
    SoftPrompt(noise.vectors, card).save(folder / "noise" / "best")
    make_tiny(folder / "other", "llama", WORDS[3:], num_hidden_layers=1)
    SoftPrompt(np.ones((4, 16), np.float32), {"model": "x"}).save(folder / "narrow" / "p")
    return folder


@pytest.fixture
def command(monkeypatch, capfd, folder):
    monkeypatch.chdir(folder)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["softprompt_jax.analyze", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("softprompt_jax.analyze", run_name="__main__")
        captured = capfd.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


BOTH = "labels=run/best,noise=noise/best"
TASK = (
    *("--task.train-file", "train.jsonl", "--task.validation-file", "validation.jsonl"),
    *("--task.max-target-length", "4"),
)
REPORTS = {
    "neighbours": ["--prompts", BOTH, "--k", "3", "--no-special"],
    "labels": ["--prompts", BOTH],
    "similarity": ["--prompts", BOTH],
    "waywardness": ["--prompts", BOTH, "--examples", "5", "--text", "the film", *TASK],
    "trajectory": ["--run", "run"],
}


@pytest.mark.parametrize(
    "what",
    [pytest.param(w, marks=pytest.mark.slow) if w == "waywardness" else w for w in REPORTS],
)
def test_reports(command, tmp_path, what):
    files = {name: tmp_path / f"report.{name}" for name in ("json", "png")}
    status, out, err = command(what, *REPORTS[what], "--json", files["json"], "--png", files["png"])
    assert status == 0, err
    report = json.loads(files["json"].read_text())
    assert report["analysis"] == what
    assert sorted(os.listdir(tmp_path)) == ["report.json", "report.png"]
    picture = imread(files["png"])
    assert picture.shape[0] > 200
    assert picture[..., :3].std() > 0.02  # something is drawn
    assert len(out.splitlines()) > 4
    assert all(len(line) < 200 for line in out.splitlines())
    if what == "trajectory":
        assert report["points"][0]["step"] == 0
        assert report["points"][-1]["step"] == 12
    else:
        assert list(report["prompts"]) == ["labels", "noise"]
    if what == "neighbours":
        positions = report["prompts"]["labels"]["positions"]
        words = [token["text"] for told in positions for token in told["neighbours"]]
        assert len(words) == 12
        assert not [word for word in words if word.startswith("<")]
    if what == "labels":
        assert set(report["by_init"]) == {"class_labels", "random_uniform"}
    if what == "waywardness":
        assert report["examples"] == 5
        assert report["prompts"]["noise"]["text"]["tokens"][1]["text"] == " film"


def test_similarity_of_a_folder(command):
    status, _, err = command("similarity", "--folder", ".")
    assert status == 2
    assert "Prompt narrow/p is 16 wide and noise/best is 32" in err
    status, _, err = command("similarity", "--folder", "run")
    assert status == 2
    assert "give at least two" in err


def test_retrieve_combine_and_train(command, folder, tmp_path):
    status, out, err = command(
        *("retrieve", "--target", "run/best", "--folder", "noise", "--output", tmp_path / "found")
    )
    assert status == 0, err
    assert out.splitlines()[1].split()[:2] == ["best", "sentiment"]
    found = SoftPrompt.load(tmp_path / "found")
    np.testing.assert_array_equal(found.vectors, SoftPrompt.load(folder / "noise/best").vectors)

    status, out, err = command(
        *("combine", "--prompts", "run/best,noise/best", "--weights", "0.25,0.75"),
        *("--output", tmp_path / "deep" / "combined"),
    )
    assert status == 0, err
    combined = SoftPrompt.load(tmp_path / "deep" / "combined")
    expected = 0.25 * np.asarray(SoftPrompt.load(folder / "run/best").vectors)
    expected += 0.75 * np.asarray(found.vectors)
    np.testing.assert_allclose(combined.vectors, expected, rtol=1e-6, atol=1e-7)
    assert [line.split()[-1] for line in out.splitlines()[1:3]] == ["0.2500", "0.7500"]
    assert f"--prompt.file {tmp_path}/deep/combined --prompt.length 4" in out

    config = small_config(
        folder,
        workdir=str(tmp_path / "run"),
        prompt__init="file",
        prompt__file=str(tmp_path / "deep" / "combined"),
        train__steps=1,
    )
    assert sp.train(config).finished


def test_retrieve_leaves_out_the_target_and_averages(command, folder, tmp_path):
    for i in range(3):
        values = np.asarray(SoftPrompt.load(folder / "run/best").vectors) + 0.1 * i
        SoftPrompt(values).save(tmp_path / "all" / f"p{i}")
    where = ("--target", tmp_path / "all/p0", "--folder", tmp_path / "all")
    status, out, err = command("retrieve", *where, "--top", "2", "--output", tmp_path / "mean")
    assert status == 0, err
    assert [line.split()[0] for line in out.splitlines()[1:3]] == ["p1", "p2"]
    parts = SoftPrompt.load(tmp_path / "mean").card["combined_from"]
    assert [part["prompt"] for part in parts] == ["p1", "p2"]
    assert sum(part["weight"] for part in parts) == pytest.approx(1)
    status, _, err = command("retrieve", *where, "--top", "3")
    assert status == 2
    assert "--top is 3, but" in err


def test_recycle(command, tmp_path):
    status, out, err = command(
        *("recycle", "--prompt", "run/best", "--to", "other", "--output", tmp_path / "new")
    )
    assert status == 0, err
    card = SoftPrompt.load(tmp_path / "new").card
    shared = card["recycled_from"]["shared_tokens"]
    assert f"{shared} shared tokens" in out
    assert card["model"] == "other"
    # All words but three, and the letters.
    assert shared == len(WORDS) - 3 + 94


MISTAKES = {
    "nothing": ([], "{neighbours,labels,"),
    "no_such_analysis": (["neighbors"], "invalid choice"),
    "unknown_option": (["neighbours", "--prompts", "run/best", "--kk", "3"], "--kk"),
    "no_prompt": (["neighbours", "--prompts", "nowhere"], "There is no prompt in nowhere"),
    "no_neighbours": (["neighbours", "--prompts", "run/best", "--k", "0"], "--k is 0"),
    "another_width": (
        ["neighbours", "--prompts", "narrow/p", "--model", "t5"],
        "The prompt is 16 wide",
    ),
    "unknown_model": (["labels", "--prompts", "run/best", "--model", "./no one"], "no folder"),
    "no_labels": (["labels", "--prompts", "bare", "--model", "t5"], "has no labels"),
    "empty_label": (
        ["labels", "--prompts", "run/best", "--labels", "positive,"],
        "The label '' has no tokens",
    ),
    "empty_text": (
        ["waywardness", "--prompts", "run/best", "--text", "", *TASK],
        "The text '' has no tokens; give one with words in it",
    ),
    "one_prompt": (["similarity", "--prompts", "run/best"], "give at least two"),
    "no_prompts_at_all": (["similarity"], "--prompts --folder"),
    "empty_folder": (["similarity", "--folder", "t5"], "There is no prompt in t5"),
    "a_config_option": (
        ["waywardness", "--prompts", "run/best", "--train.steps", "3"],
        "There is no option --train.steps",
    ),
    "unknown_split": (
        ["waywardness", "--prompts", "run/best", "--split", "tset", *TASK],
        "tset",
    ),
    "no_run": (["trajectory", "--run", "noise/best"], "There is no run in noise/best"),
    "trajectory_of_another_model": (["trajectory", "--run", "run", "--model", "wide"], "32 wide"),
    "no_sources": (["retrieve", "--target", "run/best", "--folder", "t5"], "no prompt in t5"),
    "bad_weights": (
        ["combine", "--prompts", "run/best", "--weights", "a", "--output", "x"],
        "give numbers",
    ),
    "other_lengths": (
        ["combine", "--prompts", "run/best,bare", "--output", "x"],
        "positions: run/best 4, bare 2",
    ),
    "output_that_is_there": (["combine", "--prompts", "run/best", "--output", "t5"], "t5 is there"),
    "json_that_is_there": (
        ["similarity", "--prompts", BOTH, "--json", "train.jsonl"],
        "train.jsonl is there already",
    ),
    "png_in_no_folder": (
        ["similarity", "--prompts", BOTH, "--png", "nowhere/a.png"],
        "cannot be written",
    ),
    "recycle_of_another_width": (
        ["recycle", "--prompt", "narrow/p", "--model", "t5", "--to", "other", "--output", "x"],
        "The prompt is 16 wide",
    ),
    "negative_seed": (["neighbours", "--prompts", "run/best", "--seed", "-1"], "--seed is -1"),
    "start_that_is_gone": (["trajectory", "--run", "moved"], "There is no file"),
    "negative_ridge": (
        ["recycle", "--prompt", "run/best", "--to", "other", "--ridge", "-1", "--output", "x"],
        "The ridge term is -1.0",
    ),
    "recycle_without_a_model": (
        ["recycle", "--prompt", "bare", "--to", "other", "--output", "x"],
        "give it with --model",
    ),
}


@pytest.fixture(scope="module")
def mistakes(folder):
    SoftPrompt(np.ones((2, 32), np.float32)).save(folder / "bare")
    make_tiny(folder / "wide", "t5", d_model=40, num_layers=1)
    shutil.copytree(folder / "run", folder / "moved")
    config = RunConfig.from_json((folder / "moved" / "config.json").read_text())
    gone = config.replaced({"task.train_file": "gone.jsonl"})
    (folder / "moved" / "config.json").write_text(gone.to_json())
    return folder


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_sentence_before_any_work(command, mistakes, monkeypatch, name):
    arguments, message = MISTAKES[name]
    monkeypatch.setattr(ModelFiles, "load", lambda *_, **__: pytest.fail("the weights were read"))
    status, out, err = command(*arguments)
    assert status == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert out == ""
    assert not (mistakes / "x").exists()


def test_without_matplotlib(command, monkeypatch, tmp_path):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find_spec(name)
    )
    status, _, err = command("similarity", "--prompts", BOTH, "--png", tmp_path / "a.png")
    assert status == 2
    assert "run pip install 'softprompt-jax[plots]'" in err
    status, out, _ = command("similarity", "--prompts", BOTH)
    assert status == 0
    assert "Cosine of the mean vectors" in out


def test_other_weights_are_told(command, folder, tmp_path):
    make_tiny(tmp_path / "t5", "t5", num_layers=1, num_decoder_layers=1, seed=5)
    status, _, err = command(
        *("neighbours", "--prompts", "run/best", "--model", tmp_path / "t5", "--k", "1")
    )
    assert status == 0
    assert err.startswith("warning: prompt run/best was trained on")
    assert "with other weights than those of" in err


def test_the_real_command(folder):
    done = subprocess.run(
        [sys.executable, "-m", "softprompt_jax.analyze", "similarity", "--prompts", BOTH],
        cwd=folder,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 prompts of")
