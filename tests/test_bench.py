import importlib.util
import json
import statistics
import subprocess
import sys

import numpy as np
import pytest
from tiny_models import make_tiny

from softprompt_jax.bench import main
from softprompt_jax.benchmarks.rounds import spread
from softprompt_jax.benchmarks.worker import Worker, peak_memory_bytes
from softprompt_jax.errors import UserError

HAS_PEFT = all(importlib.util.find_spec(name) for name in ("torch", "peft"))


@pytest.fixture
def recipe(tmp_path):
    """Builds the options of a recipe: a tiny model of a family, rows of very different lengths."""

    def build(family):
        model = make_tiny(tmp_path / family, family)
        rows = [
            {"input": "this film was " + "very " * (i % 11) + "good", "target": label}
            for i, label in enumerate(["positive", "negative"] * 20)
        ]
        data = tmp_path / "rows.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)))
        config = tmp_path / "recipe.py"
        config.write_text(
            "from softprompt_jax.config import *\n"
            f"config = RunConfig(model=ModelOptions(name={str(model)!r}),\n"
            f"    task=TaskOptions(name='films', train_file={str(data)!r},\n"
            f"        validation_file={str(data)!r}),\n"
            "    prompt=PromptOptions(length=3), train=TrainOptions(batch_size=4, max_shapes=3))\n"
        )
        return ["--config", str(config)]

    return build


def bench(*arguments):
    command = [sys.executable, "-m", "softprompt_jax.bench", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def check_figures(output, recipe_batch, rounds, steps):
    figures = json.loads(output.splitlines()[-1])
    for side in figures["rounds"].values():
        assert len(side) == rounds
        for turn in side:
            assert turn["examples"] == recipe_batch * steps
            assert 0 < turn["tokens"] <= turn["padded_tokens"]
    for name, value in figures.items():
        assert name == "rounds" or value > 0, name
    return figures


def speeds(turns):
    return np.array([turn["examples"] / turn["seconds"] for turn in turns])


@pytest.mark.slow
def test_ours_alone(recipe):
    done = bench("--against", "none", "--rounds", "3", "--steps-per-round", "2", *recipe("gpt2"))
    assert done.returncode == 0, done.stderr
    figures = check_figures(done.stdout, 4, 3, 2)
    assert set(figures) == {
        *("examples_per_second", "peak_memory_bytes", "compile_seconds", "rounds")
    }
    assert figures["examples_per_second"] == statistics.median(speeds(figures["rounds"]["ours"]))


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PEFT, reason="torch and peft are not installed")
@pytest.mark.parametrize("family", ["llama", "t5"])
def test_against_peft(recipe, family):
    done = bench("--against", "peft", "--rounds", "3", "--steps-per-round", "2", *recipe(family))
    assert done.returncode == 0, done.stderr
    figures = check_figures(done.stdout, 4, 3, 2)
    assert set(figures) >= {
        *("examples_per_second", "peft_examples_per_second", "ratio", "ratio_grouped"),
        *("peak_memory_bytes", "peft_peak_memory_bytes", "compile_seconds"),
    }
    ours, peft, grouped = map(speeds, figures["rounds"].values())
    assert figures["peft_examples_per_second"] == pytest.approx(np.median(peft))
    assert figures["ratio"] == pytest.approx(np.median(ours / peft))
    assert figures["ratio_grouped"] == pytest.approx(np.median(ours / grouped))
    for words in ("random order", "grouped by length", "peak memory", "times as many"):
        assert words in done.stdout


@pytest.mark.parametrize("missing", ["torch", "peft"])
def test_a_missing_library_is_named_with_its_mend(monkeypatch, recipe, missing):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name)
    )
    with pytest.raises(UserError, match=rf"needs .*{missing}.*softprompt-jax\[bench\]"):
        main(["train", "--against", "peft", *recipe("llama")])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "--rounds", "0"], "--rounds is 0"),
        (["train", "--against", "pefd"], "pefd"),
        (["sleep"], "sleep"),
        (["train", "--config", "nowhere.py"], "nowhere.py"),
        (["train", "--train.stepz", "3"], "--train.steps"),
    ],
)
def test_mistakes(arguments, said):
    with pytest.raises(UserError, match=said):
        main(arguments)


def test_a_mistake_that_a_worker_finds_ends_with_status_2(recipe):
    done = bench("--against", "none", "--model.name", "no/such/model", *recipe("llama"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_crashed_worker_is_told_with_its_log(tmp_path):
    with pytest.raises(RuntimeError, match=r"JSONDecodeError|KeyError"):
        Worker("softprompt_jax.benchmarks.ours", {"nothing": 0}, tmp_path / "log")


def test_rounds_have_the_epochs_mix():
    sizes = np.random.default_rng(0).integers(10, 60, 480)
    picked = spread(sizes, rounds=4, steps=12)
    assert picked.shape == (4, 12)
    assert len(np.unique(picked)) == 48
    np.testing.assert_allclose(sizes[picked].mean(axis=1), sizes.mean(), rtol=0.05)
    assert spread([5, 7], rounds=3, steps=4).max() == 1  # a short epoch is repeated


def test_peak_memory_grows():
    before = peak_memory_bytes()
    block = np.ones(before // 4)  # twice as large as all there was
    assert peak_memory_bytes() > before + block.nbytes // 2
