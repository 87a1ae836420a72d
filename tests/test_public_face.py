"""The names and signatures that people rely on, and that importing them is light."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
from tiny_models import make_tiny

import softprompt_jax as sp

REQUIRED = inspect.Parameter.empty


def parameters(function) -> dict[str, object]:
    """Names of parameters and their defaults."""
    signature = inspect.signature(function)
    return {name: parameter.default for name, parameter in signature.parameters.items()}


def test_all_names_are_there():
    for name in sp.__all__:
        assert getattr(sp, name) is not None
    assert {
        "load_model",
        "SoftPrompt",
        "train",
        "load_config",
        "Predictor",
        "get_task",
    } <= set(sp.__all__)


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (sp.load_model, {"name": REQUIRED, "dtype": "float32"}),
        (sp.load_config, {"path": None, "overrides": ()}),
        (sp.train, {"config": REQUIRED}),
        (sp.SoftPrompt.load, {"folder": REQUIRED}),
        (sp.SoftPrompt.save, {"self": REQUIRED, "folder": REQUIRED}),
        (
            sp.LanguageModel.logits,
            {
                "self": REQUIRED,
                "input_ids": REQUIRED,
                "attention_mask": None,
                "decoder_input_ids": None,
                "prompt": None,
            },
        ),
        (
            sp.Predictor.generate,
            {"self": REQUIRED, "texts": REQUIRED, "prompts": None, "max_new_tokens": 32},
        ),
        (
            sp.Predictor.score,
            {"self": REQUIRED, "texts": REQUIRED, "choices": REQUIRED, "prompts": None},
        ),
        (sp.Task.text_pairs, {"self": REQUIRED, "example": REQUIRED, "task_prefix": True}),
    ],
)
def test_signatures(function, expected):
    given = parameters(function)
    # The same names in the same order; more may follow if they have defaults.
    assert list(given)[: len(expected)] == list(expected)
    assert {name: given[name] for name in expected} == expected
    assert REQUIRED not in list(given.values())[len(expected) :]


def test_create_takes_what_the_design_says():
    given = parameters(sp.SoftPrompt.create)
    assert list(given)[:3] == ["model", "length", "init"]
    assert given["init"] == "class_labels"
    assert {"labels", "seed"} <= set(given)


def test_from_model_to_answers(tmp_path):
    model = sp.load_model(str(make_tiny(tmp_path / "model", "t5", num_decoder_layers=1)))
    assert model.d_model == model.config.d_model == 32
    ids = [model.tokenizer("the movie was good")["input_ids"]]
    prompt = sp.SoftPrompt.create(
        model, length=4, init="class_labels", labels=["positive", "negative"], seed=0
    )
    logits = model.logits(ids, decoder_input_ids=[[0, 5]], prompt=prompt)
    assert logits.shape == (1, 2, model.config.vocab_size)
    prompt.save(tmp_path / "prompt")
    again = sp.SoftPrompt.load(tmp_path / "prompt")
    np.testing.assert_array_equal(again.vectors, prompt.vectors)
    predictor = sp.Predictor(model, {"reviews": prompt, "other": again})
    assert predictor.score(["good"], ["yes", "no"], prompts=["other"]).shape == (1, 2)
    (answer,) = predictor.generate(["good"], prompts="reviews", max_new_tokens=2)
    assert isinstance(answer, str)


def test_a_config_and_a_task():
    config = sp.load_config(overrides=["--train.steps", "50"])
    assert isinstance(config, sp.RunConfig)
    assert config.train.steps == 50
    task = sp.get_task("movie_reviews")
    assert isinstance(task, sp.Task)
    example = task.split("validation")[0]
    ((text, target),) = task.text_pairs(example, task_prefix=True)
    ((plain, _),) = task.text_pairs(example, task_prefix=False)
    assert target in task.labels
    assert text.endswith(plain)
    assert text != plain


def test_importing_is_light():
    """Without torch, which people need not have, and without transformers, which takes long."""
    code = """
import sys
import softprompt_jax
heavy = {"torch", "transformers", "tensorflow", "matplotlib", "sklearn", "peft"} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
