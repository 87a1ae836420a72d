"""Weights in shards on eight devices answer as whole ones on one device do."""

import json
import runpy

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lively_models import make_lively, random_prompt
from small_runs import ONE_LAYER

from softprompt_jax import evaluate
from softprompt_jax.config import ParallelOptions
from softprompt_jax.errors import UserError
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.inference.serving_layout import serving_layout
from softprompt_jax.models import load_model, resolve_model
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.training import parallel
from softprompt_jax.training.parallel import MeshLayout, PmapLayout

FAMILIES = ("t5", "llama")
TEXTS = ["the movie was good", "the story is bad", "a blue sky", "not the cat"]
NAMES = ["short", "long", "long", "short"]
CHOICES = ["positive", "not good"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mesh")
    for family in FAMILIES:
        model = make_lively(folder / family, family, **ONE_LAYER[family])
        for name, length in (("short", 2), ("long", 5)):
            card = {"model": str(model), "labels": CHOICES}
            prompt = SoftPrompt(jnp.asarray(random_prompt(length, length)), card)
            prompt.save(folder / f"{family}-{name}")
    return folder


@pytest.fixture(scope="module")
def by_one_device(folder):
    found = {}

    def get(family):
        if family not in found:
            predictor = Predictor(
                load_model(str(folder / family)), prompts(folder, family), devices=1
            )
            found[family] = answers(predictor)
        return found[family]

    return get


def prompts(folder, family):
    return {name: SoftPrompt.load(folder / f"{family}-{name}") for name in ("short", "long")}


def answers(predictor):
    return predictor.score(TEXTS, CHOICES, NAMES), predictor.generate(TEXTS, NAMES, 4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("axes", [{"fsdp": 8}, {"tensor": 2, "data": 4}])
def test_mesh(folder, by_one_device, family, axes):
    told = {name: str(folder / f"{family}-{name}") for name in ("short", "long")}
    predictor = Predictor.load(str(folder / family), told, parallel=ParallelOptions(**axes))
    embedding = predictor.model.module.embedding[...]
    assert embedding.sharding.shard_shape(embedding.shape) != embedding.shape
    scores, texts = answers(predictor)
    expected, expected_texts = by_one_device(family)
    assert np.ptp(expected) > 1
    np.testing.assert_allclose(scores, expected, atol=1e-5, rtol=0)
    assert texts == expected_texts
    assert len(set(texts)) > 1


def test_a_model_that_lies_elsewhere_is_moved(folder, by_one_device):
    layout = MeshLayout(jax.devices()[:2], fsdp=2)
    model = load_model(str(folder / "llama"))
    predictor = Predictor(model, prompts(folder, "llama"), layout=layout)
    scores = predictor.score(TEXTS, CHOICES, NAMES)
    np.testing.assert_allclose(scores, by_one_device("llama")[0], atol=1e-5, rtol=0)
    assert len(model.module.embedding[...].devices()) == 1  # as it was


def test_devices_and_a_layout(folder):
    layout = PmapLayout(jax.devices()[:2])
    with pytest.raises(UserError, match="devices and a layout"):
        Predictor(load_model(str(folder / "llama")), devices=1, layout=layout)


def test_weights_that_are_too_large_for_a_device(folder, monkeypatch):
    config = resolve_model(str(folder / "t5")).config
    assert isinstance(serving_layout(ParallelOptions(), config, "float32"), PmapLayout)
    monkeypatch.setattr(parallel, "_memory_limit", lambda device: 1000)
    layout = serving_layout(ParallelOptions(), config, "float32")
    assert isinstance(layout, MeshLayout)
    assert layout.mesh.shape["fsdp"] == 8


@pytest.mark.slow
def test_the_commands(folder, tmp_path, capsys, by_one_device):
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(
            json.dumps({"text": text, "prompt": name}) + "\n"
            for text, name in zip(TEXTS, NAMES, strict=True)
        )
    )
    told = ",".join(f"{name}={folder}/llama-{name}" for name in ("short", "long"))
    mesh = ["--layout", "mesh", "--data", "4", "--tensor", "2"]
    output = tmp_path / "answers.jsonl"
    arguments = ["--prompts", told, "--input", str(rows), "--output", str(output), *mesh]
    # Not imported: the tests of the command run it as a module, which must not be there then.
    assert runpy.run_module("softprompt_jax.predict")["main"](arguments) == 0
    scores = [list(json.loads(line)["scores"].values()) for line in output.read_text().splitlines()]
    np.testing.assert_allclose(scores, by_one_device("llama")[0], atol=2e-5, rtol=0)

    task = tmp_path / "task.jsonl"
    task.write_text(
        "".join(json.dumps({"input": text, "target": "positive"}) + "\n" for text in TEXTS)
    )
    common = ["--prompts", f"{folder}/llama-long", "--json", "--task", "mine"]
    common += ["--task.train-file", str(task)]
    common += ["--task.validation-file", str(task), "--task.labels", *CHOICES]
    reports = []
    for layout in (mesh, ["--devices", "1"]):
        capsys.readouterr()
        assert evaluate.main([*common, *layout]) == 0
        reports.append(json.loads(capsys.readouterr().out))
    assert reports[0] == reports[1]
