import importlib.util
import json
import statistics
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file
from tiny_models import make_tiny

from softprompt_jax.bench import main
from softprompt_jax.benchmarks import handover, training
from softprompt_jax.benchmarks.matmul import layer_widths
from softprompt_jax.benchmarks.rounds import spread
from softprompt_jax.benchmarks.worker import Worker, peak_memory_bytes
from softprompt_jax.benchmarks.workload import LENGTHS, Workload, draw_examples, prepare
from softprompt_jax.errors import UserError
from softprompt_jax.models.families import build_module, config_from_hf
from softprompt_jax.models.known_shapes import KNOWN_SHAPES
from softprompt_jax.models.saving import torch_state
from softprompt_jax.recipes import load_config

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
        *("examples_per_second", "peak_memory_bytes", "compile_seconds", "rounds"),
        *("matmul_flops_per_second", "step_flops_per_second", "share_of_matmul_limit"),
    }
    turns = figures["rounds"]["ours"]
    counted = statistics.median(turn["flops"] / turn["seconds"] for turn in turns)
    assert figures["step_flops_per_second"] == pytest.approx(counted)
    share = figures["step_flops_per_second"] / figures["matmul_flops_per_second"]
    assert figures["share_of_matmul_limit"] == pytest.approx(share, rel=0.9)
    assert "matrix products" in done.stdout
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


@pytest.mark.slow
@pytest.mark.skipif(not HAS_PEFT, reason="torch and peft are not installed")
@pytest.mark.parametrize("family", ["t5"])
def test_equal_padding_of_drawn_rows(recipe, tmp_path, family):
    options = recipe(family)
    shape = tmp_path / "shape"  # neither weights nor a tokenizer
    shape.mkdir()
    (shape / "config.json").write_bytes((tmp_path / family / "config.json").read_bytes())
    drawn = ("--shape", str(shape), "--lengths", "multirc", "--padding", "equal")
    done = bench("--rounds", "2", "--steps-per-round", "2", *drawn, *options)
    assert done.returncode == 0, done.stderr
    figures = check_figures(done.stdout, 4, 2, 2)
    assert "ratio_grouped" not in figures
    for ours, peft in zip(*figures["rounds"].values(), strict=True):
        assert ours["tokens"] == peft["tokens"]
        assert ours["padded_tokens"] == peft["padded_tokens"] == 2 * 4 * (512 + 2)


@pytest.mark.parametrize("family", ["t5", "llama"])
def test_random_weights_are_the_same_for_both_sides(recipe, tmp_path, family):
    config = load_config(recipe(family)[1])
    (tmp_path / family / "model.safetensors").unlink()  # drawn, not read
    workload = Workload(str(tmp_path / family), "multirc")
    folder = tmp_path / "handover"
    folder.mkdir()
    setup = {
        "config": workload.apply(config).to_json(),
        "workload": workload._asdict(),
        "folder": str(folder),
    }
    handover.start(setup)
    ours = prepare(workload.apply(config), workload)
    theirs = load_file(folder / "model" / "model.safetensors")
    mine = torch_state(ours.load(None, "cpu").module, family)
    assert mine.keys() == theirs.keys()
    for name, values in mine.items():
        np.testing.assert_array_equal(theirs[name], values)
    with np.load(folder / "tokens.npz") as tokens:
        np.testing.assert_array_equal(tokens["inputs"], ours.examples.inputs)
        np.testing.assert_array_equal(tokens["input_offsets"], ours.examples.input_offsets)


def test_drawn_lengths():
    examples = draw_examples(LENGTHS["multirc"], 100, seed=3, rows=20000)
    lengths = examples.input_lengths
    assert np.median(lengths) == pytest.approx(270, rel=0.02)
    assert lengths.min() >= 1
    assert lengths.max() == 512
    assert 0.02 < (lengths == 512).mean() < 0.05
    assert set(examples.target_lengths) == {2}
    assert examples.inputs.min() >= 10
    assert examples.inputs.max() == 99
    again = draw_examples(LENGTHS["multirc"], 100, seed=3, rows=20000)
    np.testing.assert_array_equal(again.inputs, examples.inputs)


def test_widths_of_two_layers():
    llama = config_from_hf(KNOWN_SHAPES["smollm2-135m"])
    assert layer_widths(llama) == [576] * 2 + [192] * 2 + [1536] * 3
    # Twice a layer's weights, which all are matrices but the norms.
    t5 = config_from_hf(KNOWN_SHAPES["google/t5-v1_1-base"])
    module = nnx.eval_shape(lambda: build_module(t5, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    block = jax.tree.leaves(nnx.state(module.encoder.blocks[0]))
    kernels = sum(leaf.size for leaf in block if leaf.ndim == 2)
    assert sum(2 * t5.d_model * width for width in layer_widths(t5)) == 2 * kernels


@pytest.mark.skipif(not HAS_PEFT, reason="torch and peft are not installed")
def test_rows_without_a_tokenizer_are_padded_as_transformers_does_it(recipe, tmp_path):
    from softprompt_jax.benchmarks.peft_side import make_collator

    recipe("t5")
    features = [
        {"input_ids": [5, 6, 7], "attention_mask": [1] * 3, "labels": [8, 1]},
        {"input_ids": [9], "attention_mask": [1], "labels": [3, 4, 1]},
    ]
    with_tokenizer = make_collator(tmp_path / "t5", 0)([dict(each) for each in features])
    without = make_collator(tmp_path, 0)(features)
    assert set(with_tokenizer) == set(without)
    for name, values in without.items():
        np.testing.assert_array_equal(values, with_tokenizer[name])


@pytest.mark.skipif(not HAS_PEFT, reason="torch and peft are not installed")
@pytest.mark.parametrize("family", ["t5", "gpt2", "llama"])
def test_pefts_side_trains_without_dropout_as_ours_does(recipe, tmp_path, family):
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    from softprompt_jax.benchmarks.peft_side import without_dropout

    recipe(family)
    auto = AutoModelForSeq2SeqLM if family == "t5" else AutoModelForCausalLM
    model = auto.from_pretrained(tmp_path / family, config=without_dropout(tmp_path / family))
    model.train()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        first, second = (model(input_ids=ids, labels=ids).logits for _ in range(2))
    assert torch.equal(first, second)


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
        (["train", "--against", "none", "--shape", "google/t5-v1_1-base"], "--lengths"),
        (["train", "--against", "none", "--shape", "no!", "--lengths", "multirc"], "no!"),
        (["train", "--lengths", "boolq"], "boolq"),
        (["train", "--padding", "some"], "some"),
        (["train", "--train.stepz", "3"], "--train.steps"),
    ],
)
def test_mistakes(arguments, said):
    with pytest.raises(UserError, match=said):
        main(arguments)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--train.method", "model_tuning"], "--train.method is model_tuning.*prompt_tuning"),
        (["--train.accumulation", "2"], "--train.accumulation is 2.* make it 1,"),
        (["--train.loss", "labels"], "--train.loss is labels.* make it tokens,"),
        (["--train.z_loss", "0.1"], "--train.z_loss is 0.1"),
        (["--train.freeze", "a", "b"], "--train.freeze is a b.* make it empty,"),
        (["--model.dropout_rate", "0.1"], "--model.dropout_rate is 0.1"),
        (["--optimizer.name", "adafactor"], "adafactor.* make it lester_adafactor or adamw,"),
        (["--optimizer.max_gradient_norm", "1"], "--optimizer.max_gradient_norm is 1.0"),
        (["--prompt.parameterization", "prefix"], "--prompt.parameterization is prefix"),
        (["--prompt.wayward_text", "a text"], "--prompt.wayward_text is a text"),
        (["--parallel.layout", "mesh"], "--parallel.layout is mesh.* make it auto or pmap,"),
        (["--parallel.devices", "2"], "--parallel.devices is 2.* make it None or 1,"),
        (["--parallel.tensor", "2"], "--parallel.tensor is 2"),
    ],
)
def test_what_pefts_side_does_not_follow_is_refused(recipe, monkeypatch, options, said):
    monkeypatch.setattr(training, "compare", lambda *_: pytest.fail("work started"))
    with pytest.raises(UserError, match=f"{said}.* --against none") as refused:
        main(["train", "--against", "peft", *recipe("llama"), *options])
    assert "which PEFT's side does not follow" in str(refused.value)


def test_several_tasks_are_not_compared():
    said = r"--task.mixture is movie_reviews sms_spam, .* make it empty, or"
    with pytest.raises(UserError, match=said):
        main(["train", "--task.mixture", "movie_reviews", "sms_spam"])


def test_what_pefts_side_follows_gets_to_work(recipe, monkeypatch):
    def work(*_):
        raise InterruptedError

    monkeypatch.setattr(training, "check_installed", lambda: None)
    monkeypatch.setattr(training, "compare", work)
    adamw = ["--optimizer.name", "adamw", "--optimizer.learning_rate", "0.1"]
    for options in ([], adamw, ["--parallel.devices", "1"]):
        with pytest.raises(InterruptedError):
            main(["train", "--against", "peft", *recipe("llama"), *options])
    with pytest.raises(InterruptedError):
        main(["train", "--against", "none", *recipe("llama"), "--train.accumulation", "2"])


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
