"""A predictor with DePT prompts and prefixes: mixed where that can be, else alone."""

import json
import runpy
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from lively_models import compiled, make_lively, pad, random_prompt, random_rows
from small_runs import ONE_LAYER

from softprompt_jax.data.tokenization import encode_choices, pad_rows
from softprompt_jax.errors import UserError
from softprompt_jax.exchange import read_any_prompt, read_prompt
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.inference.scoring import choice_log_likelihoods
from softprompt_jax.models import load_model
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.prompts.reparameterizations import reparameterize
from softprompt_jax.prompts.unfolded_prompt import UnfoldedPrompt

TEXTS = random_rows((5, 2, 4), seed=1)
CHOICES = ["good", "awful film"]
PLAIN = SoftPrompt(jnp.asarray(random_prompt(4, seed=3)), {"model": "tiny"})


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    return {
        family: load_model(str(make_lively(tmp_path_factory.mktemp("m"), family, **one_layer)))
        for family, one_layer in ONE_LAYER.items()
    }


def made(kind, model, length=3):
    options = {"positions": 4, "rank": 2, "model": model.module}
    start = jnp.asarray(random_prompt(length))
    graphdef, state = nnx.split(reparameterize(kind, start, jax.random.key(0), **options))
    generator = np.random.default_rng(length)
    shake = lambda x: x + jnp.asarray(generator.normal(0, 0.5, x.shape), jnp.float32)  # noqa: E731
    return UnfoldedPrompt(nnx.merge(graphdef, jax.tree.map(shake, state)), {"model": "tiny"})


def by_hand(model, served):
    ids, mask = pad(TEXTS)
    choices = pad_rows(encode_choices(CHOICES, model.tokenizer, model.config))
    rows = {"inputs": ids, "input_mask": mask}
    return compiled(choice_log_likelihoods, model, rows, *choices, served)


def test_prefixes_and_plain_prompts_in_one_batch(models):
    model = models["gpt2"]
    prompts = {"plain": PLAIN, "short": made("prefix", model), "long": made("prefix", model, 5)}
    predictor = Predictor(model, prompts, devices=1)
    names = ["short", "plain", "long"]
    mixed = predictor.score(TEXTS, CHOICES, names)
    for row, name in enumerate(names):
        own = prompts[name]
        served = own.vectors if isinstance(own, SoftPrompt) else own.served
        np.testing.assert_allclose(mixed[row], by_hand(model, served)[row], atol=5e-5)
    assert np.abs(mixed[0] - by_hand(model, None)[0]).max() > 0.01


@pytest.mark.parametrize(("kind", "family"), [("dept", "t5"), ("dept", "llama"), ("prefix", "t5")])
def test_what_must_be_alone(models, kind, family):
    model = models[family]
    prompt = made(kind, model)
    predictor = Predictor(model, {"one": prompt}, devices=1)
    scores = predictor.score(TEXTS, CHOICES)
    np.testing.assert_allclose(scores, by_hand(model, prompt.served), atol=5e-5)
    if family == "t5":
        assert len(predictor.generate(TEXTS, max_new_tokens=3)) == 3
    with pytest.raises(UserError, match=f"one is a '{kind}' prompt, which shares no batch"):
        predictor.add("other", PLAIN)
    np.testing.assert_array_equal(predictor.score(TEXTS, CHOICES), scores)
    predictor.add("one", PLAIN)
    expected = by_hand(model, PLAIN.vectors)
    np.testing.assert_allclose(predictor.score(TEXTS, CHOICES), expected, atol=5e-5)
    with pytest.raises(UserError, match="shares no batch with others; give it alone"):
        predictor.add("other", prompt)
    with pytest.raises(UserError, match="give it alone"):
        Predictor(model, {"one": prompt, "other": PLAIN}, devices=1)
    predictor.remove("one")
    predictor.add("other", prompt)
    np.testing.assert_array_equal(predictor.score(TEXTS, CHOICES), scores)


def test_the_longest_text_beside_a_dept_prompt(tmp_path):
    """DePT's prompt (3), text and answer fill 40 positions; padding takes none."""
    model = load_model(str(make_lively(tmp_path, "gpt2", n_layer=1, n_positions=40)))
    predictor = Predictor(model, {"one": made("dept", model)}, devices=1)
    (text,) = random_rows((35,))
    assert len(predictor.generate([text], max_new_tokens=2)) == 1
    longer, shorter = predictor.score([text, text[:7]], [["a", "is"], ["good " * 30, "a"]])
    np.testing.assert_allclose(longer, predictor.score([text], ["a", "is"])[0], atol=5e-5)
    expected = predictor.score([text[:7]], ["good " * 30, "a"])[0]
    np.testing.assert_allclose(shorter, expected, atol=5e-5)
    with pytest.raises(UserError, match="41 tokens together"):
        predictor.generate([text], max_new_tokens=3)


def test_reading(models, tmp_path):
    prompt = made("dept", models["gpt2"])
    prompt.save(tmp_path / "best")
    again = read_any_prompt(tmp_path / "best", model=models["gpt2"])
    assert isinstance(again, UnfoldedPrompt)
    with pytest.raises(UserError, match="is a 'dept' prompt, which is more than vectors"):
        read_prompt(tmp_path / "best")
    wide: Any = SimpleNamespace(name="wide", config=SimpleNamespace(d_model=64))
    with pytest.raises(UserError, match="whose shape is not that of wide"):
        read_any_prompt(tmp_path / "best", model=wide)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "family"), [("dept", "t5"), ("prefix", "gpt2")])
def test_the_command(models, kind, family, monkeypatch, tmp_path):
    model = models[family]
    prompt = made(kind, model)
    card = {"model": model.name, "task": "reviews", "labels": CHOICES}
    UnfoldedPrompt(prompt.module, card).save(tmp_path / "best")
    texts = ["the movie was good", "a very very awful film"]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))

    def run(output):
        given = ["--prompts", f"one={tmp_path / 'best'}", "--input", tmp_path / "in.jsonl"]
        options = [*given, "--output", tmp_path / output, "--devices", "1"]
        monkeypatch.setattr(sys, "argv", ["softprompt_jax.predict", *map(str, options)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("softprompt_jax.predict", run_name="__main__")
        assert stop.value.code == 0
        return [json.loads(line) for line in (tmp_path / output).read_text().splitlines()]

    scores = Predictor(model, {"one": prompt}, devices=1).score(texts, CHOICES)
    for told, own in zip(run("out.jsonl"), scores, strict=True):
        assert [told["scores"][choice] for choice in CHOICES] == pytest.approx(own, abs=1e-4)
