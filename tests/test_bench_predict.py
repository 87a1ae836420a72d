import importlib.util
import json
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lively_models import make_lively

from softprompt_jax.bench import main
from softprompt_jax.benchmarks import prediction, prediction_handover
from softprompt_jax.benchmarks.prediction_ours import count_compilations, one_row_a_shape
from softprompt_jax.benchmarks.rounds import Side, Turn
from softprompt_jax.errors import UserError
from softprompt_jax.inference.batching import padded_length
from softprompt_jax.models.loading import ModelFiles

HAS_PEFT = all(importlib.util.find_spec(name) for name in ("torch", "peft"))
SMALL = (
    *("--rounds", "2", "--rows-per-round", "18", "--generated-rows-per-round", "9"),
    *("--prompts", "3", "--prompt-length", "5", "--batch-size", "4", "--max-new-tokens", "6"),
)
ROWS = {"classification": 18, "generation": 9}


def bench(*arguments):
    command = [sys.executable, "-m", "softprompt_jax.bench", "predict", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


def speeds(turns):
    return np.array([turn["examples"] / turn["seconds"] for turn in turns])


def check_figures(output, sides):
    figures = json.loads(output.splitlines()[-1])
    for work, rows in ROWS.items():
        assert set(figures["rounds"][work]) == set(sides)
        for turns in figures["rounds"][work].values():
            assert [turn["examples"] for turn in turns] == [rows, rows]
    classified, generated = (figures["rounds"][work]["ours"] for work in ROWS)
    assert figures["examples_per_second"] == pytest.approx(np.median(speeds(classified)))
    assert figures["tokens_per_second"] == pytest.approx(6 * np.median(speeds(generated)))
    assert figures["recompiles_of_added_prompt"] == 0
    assert figures["compilations"] > 4  # so the counter counts
    for name in ("peak_memory_bytes", "compile_seconds", "seconds_of_added_prompt"):
        assert figures[name] > 0, name
    return figures


@pytest.mark.slow
def test_ours_alone(tmp_path):
    model = make_lively(tmp_path / "gpt2", "gpt2")
    done = bench("--against", "none", "--model", str(model), *SMALL)
    assert done.returncode == 0, done.stderr
    figures = check_figures(done.stdout, ["ours"])
    assert figures["ratios"] == {}
    assert not any(name.startswith("peft") for name in figures)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PEFT, reason="torch and peft are not installed")
def test_against_peft(tmp_path):
    model = make_lively(tmp_path / "llama", "llama")
    done = bench("--against", "peft", "--model", str(model), *SMALL)
    assert done.returncode == 0, done.stderr
    figures = check_figures(done.stdout, ["ours", "peft", "peft_grouped"])
    for side in ("peft", "peft_grouped"):
        assert figures[f"{side}_agreement"] == 1.0
        assert figures[f"{side}_score_difference"] < 1e-4
    assert figures["peft_grouped_text_agreement"] == 1.0
    assert figures["peft_text_agreement"] < 1.0  # its left padding moves the text
    for side, suffix in (("peft", ""), ("peft_grouped", "_grouped")):
        for work, what in (("classification", "examples"), ("generation", "tokens")):
            turns = figures["rounds"][work]
            ratios = speeds(turns["ours"]) / speeds(turns[side])
            assert figures["ratios"][side][f"{what}_per_second"] == pytest.approx(ratios)
            ratio = figures[f"ratio_{what}_per_second{suffix}"]
            assert ratio == pytest.approx(np.median(ratios))
    for words in ("random order", "grouped by length", "same text", "0 compilations"):
        assert words in done.stdout


@pytest.mark.parametrize("missing", ["torch", "peft"])
def test_a_missing_library_is_named_with_its_mend(monkeypatch, missing):
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else find_spec(name)
    )
    with pytest.raises(UserError, match=rf"needs .*{missing}.*softprompt-jax\[bench\]"):
        main(["predict"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--rounds", "0"], "--rounds is 0"),
        (["--max-new-tokens", "-1"], "--max-new-tokens is -1"),
        (["--rows-per-round", "9"], "--rows-per-round is 9.* --batch-size, which is 16"),
        (["--generated-rows-per-round", "9"], "--generated-rows-per-round is 9"),
        (["--against", "pefd"], "pefd"),
        (["--train.steps", "3"], "--train.steps"),
    ],
)
def test_mistakes(arguments, said):
    with pytest.raises(UserError, match=said):
        main(["predict", *arguments])


@pytest.mark.slow
def test_only_causal_models_are_compared(tmp_path):
    done = bench("--against", "none", "--model", str(make_lively(tmp_path / "t5", "t5")), *SMALL)
    assert done.returncode == 2
    assert "is an encoder-decoder" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("family", "choices", "said"),
    [
        ("t5", ["good", "bad"], "is an encoder-decoder"),
        ("llama", ["good bad", "bad"], "are not one token each"),
    ],
)
def test_a_model_is_refused_before_its_weights_are_read(
    tmp_path, monkeypatch, family, choices, said
):
    monkeypatch.setattr(ModelFiles, "load", lambda *_, **__: pytest.fail("the weights were read"))
    setup = {"model": str(make_lively(tmp_path / family, family)), "choices": choices}
    with pytest.raises(UserError, match=said):
        prediction_handover.start(setup | {"folder": str(tmp_path)})


def test_compilations_are_counted():
    seen = count_compilations()
    double = jax.jit(lambda x: 2 * x)
    arrays = [jnp.zeros(size) for size in (3, 3, 5)]
    before = len(seen)
    counts = []
    for array in arrays:
        double(array)
        counts.append(len(seen) - before)
    assert counts == [1, 1, 2]


def test_warming_up_meets_every_shape():
    lengths = [3, 9, 30, 8, 70, 25]
    predictor = SimpleNamespace(
        batch_size=7,
        model=SimpleNamespace(config=SimpleNamespace(max_positions=None)),
        input_lengths=lambda texts: [len(text) for text in texts],
    )
    rows = one_row_a_shape(predictor, ["x" * length for length in lengths])
    assert len(rows) == 7
    assert {padded_length(lengths[row]) for row in rows} == {4, 8, 12, 28, 32, 80}


def test_what_does_not_agree_is_told():
    options = prediction.Options("m", "peft", 2, 3, 4, 5, 1, 4, 4)
    scores = np.array([[0.0, -1.0], [-2.0, -1.0], [0.0, -3.0], [0.0, -4.0]])
    other = scores + np.array([[0, 0], [1.5, 0], [0, 0], [0, 0]])
    agreement = prediction._agree(scores, other, ["a", "b", "c", "d"], ["a", "x", "y", "d"])
    assert agreement == prediction.Agreement(0.75, 1.5, 0.5)
    sides = {
        work: [
            Side("ours", {"compile_seconds": 1.0, "compilations": 9} | ABOUT, [Turn(1.0, 8, 10)]),
            Side("PEFT", ABOUT, [Turn(2.0, 8, 10)]),
        ]
        for work in prediction.WORKS
    }
    found = prediction.Comparison(sides, [agreement], {"seconds": 0.5, "compilations": 2})
    figures = json.loads(prediction.to_json(options, found))
    assert figures["peft_agreement"] == 0.75
    assert figures["recompiles_of_added_prompt"] == 2
    assert figures["ratio_tokens_per_second"] == 2.0
    assert figures["tokens_per_second"] == 40.0
    told = prediction.report(options, found)
    for words in ("75.0%", "50.0%", "2 compilations", "2.00 times"):
        assert words in told


ABOUT = {"software": "s", "device": "d"}
