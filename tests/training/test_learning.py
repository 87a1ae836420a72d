"""The T5 path learns, from random weights to a prompt on the result."""

import itertools

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_runs import changed, metrics_lines, write_rows
from tiny_models import make_tiny

import softprompt_jax as sp
from softprompt_jax.config import (
    ModelOptions,
    OptimizerOptions,
    ParallelOptions,
    PromptOptions,
    RunConfig,
    TaskOptions,
    TrainOptions,
)
from softprompt_jax.recipes import load_config
from softprompt_jax.training.tuning import train

COLOURS = ("red", "green", "blue", "black", "white", "brown")
ORDERS = ("first", "last")


def write_task(folder, name, rows):
    """Every 8th row is held out."""
    rows = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    write_rows(folder / f"{name}-train.jsonl", [row for i, row in enumerate(rows) if i % 8])
    write_rows(folder / f"{name}-validation.jsonl", rows[::8])
    return TaskOptions(
        name=name,
        train_file=str(folder / f"{name}-train.jsonl"),
        validation_file=str(folder / f"{name}-validation.jsonl"),
        max_input_length=16,
        max_target_length=4,
    )


@pytest.mark.slow
def test_a_tuned_t5_and_then_a_prompt_on_it(tmp_path):
    triples = list(itertools.product(COLOURS, repeat=3))
    model = make_tiny(
        tmp_path / "model",
        words=(*COLOURS, *ORDERS, "nothing"),
        **{"d_model": 64, "d_kv": 16, "d_ff": 128},
    )

    # The first task: three colours after an order, or without one, which asks for nothing.
    ordered = [
        {"input": f"{order} : {' '.join(words)}", "target": words[0 if order == "first" else 2]}
        for order in ORDERS
        for words in triples
    ]
    bare = [{"input": " ".join(words), "target": "nothing"} for words in triples]
    config = RunConfig(
        workdir=str(tmp_path / "model-run"),
        model=ModelOptions(name=str(model)),
        task=write_task(tmp_path, "orders", ordered + bare),
        optimizer=OptimizerOptions(name="adafactor", learning_rate=0.03, weight_decay=0.0),
        train=TrainOptions(
            method="model_tuning", steps=600, batch_size=32, evaluate_every=100, max_shapes=2
        ),
        parallel=ParallelOptions(devices=1),
    )
    result = train(config)
    assert result.best_prompt is None
    assert result.metrics["validation/accuracy"] >= 0.95

    # The second: the last colour of three, which the tuned model does not tell without an order.
    best = result.workdir / "best"
    before = (best / "model.safetensors").read_bytes()
    task = write_task(
        tmp_path, "last", [{"input": " ".join(words), "target": words[2]} for words in triples]
    )
    config = changed(
        config,
        workdir=str(tmp_path / "prompt-run"),
        model=ModelOptions(name=str(best)),
        prompt=PromptOptions(length=4, init="sampled_vocab"),
        task=task,
        task__evaluation="generate",
        optimizer=OptimizerOptions(),
        train__method="prompt_tuning",
        train__steps=200,
    )
    held_out = sp.get_task(
        "last",
        train_file=task.train_file,
        validation_file=task.validation_file,
        evaluation="generate",
    )
    rows = [held_out.evaluation_rows(row, False)[0] for row in held_out.split("validation")]
    texts, targets = map(list, zip(*rows, strict=True))
    tuned = sp.load_model(str(best))

    def accuracy(prompt):
        return held_out.evaluate(sp.Predictor(tuned, {"p": prompt}).generate(texts), targets)

    answers = answers_alone(tuned, texts)
    assert held_out.evaluate(answers, targets)["exact_match"] <= 0.2

    result = train(config)
    assert result.metrics["validation/exact_match"] >= 0.9
    assert accuracy(result.best_prompt)["exact_match"] == pytest.approx(
        result.metrics["validation/exact_match"]
    )
    assert (best / "model.safetensors").read_bytes() == before
    saved = load_file(result.workdir / "best" / "prompt.safetensors")
    assert saved["vectors"].shape == (4, 64)


def answers_alone(model, texts):
    """The model's likeliest first token for each text, without a prompt."""
    answers = []
    for text in texts:
        ids = np.asarray([model.tokenizer(text)["input_ids"]])
        start = np.full((1, 1), model.config.decoder_start_id)
        logits = model.logits(ids, decoder_input_ids=start)
        answers.append(model.tokenizer.decode([int(np.argmax(logits[0, 0]))]).strip())
    return answers


@pytest.mark.slow
def test_the_t5_recipe_of_the_package(tmp_path, pytestconfig):
    """With the smallest T5 that comes with it, which by the paper's loss finds no spam at all."""
    recipe = load_config(pytestconfig.rootpath / "configs" / "quickstart_t5.py")
    config = changed(
        recipe,
        model__name="t5-nano",
        workdir=str(tmp_path / "run"),
        train__steps=120,
        train__evaluate_every=120,
        train__evaluate_first=True,
        parallel__devices=1,
    )
    result = train(config)
    start = next(line for line in metrics_lines(result.workdir) if "validation/f1" in line)
    assert start["step"] == 0
    assert start["validation/f1"] < 0.4
    assert result.metrics["validation/f1"] > 0.65
    assert result.metrics["test/accuracy"] > 0.93
