"""The export command: every form into every other, and what is refused before anything is done."""

import json
import runpy
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import make_tiny

import softprompt_jax as sp

VECTORS = np.random.default_rng(0).normal(0, 1, (4, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(make_tiny(tmp_path_factory.mktemp("model"), "gpt2", n_layer=1))


@pytest.fixture
def best(model, tmp_path):
    card = {"model": model, "task": "reviews", "labels": ["good", "bad"]}
    sp.SoftPrompt(jnp.asarray(VECTORS), card).save(tmp_path / "best")
    return tmp_path / "best"


@pytest.fixture
def run(monkeypatch, capfd):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["softprompt_jax.export", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            runpy.run_module("softprompt_jax.export", run_name="__main__")
        captured = capfd.readouterr()
        return stop.value.code, captured.out, captured.err

    return run


def test_all_forms_at_once_and_back(run, best, tmp_path, model):
    peft, npy, embeds = (tmp_path / name for name in ("peft", "a.npy", "e.safetensors"))
    targets = ("--peft", peft, "--npy", npy, "--embeddings", embeds, "--text", "the movie")
    status, out, err = run(best, *targets, "--base-model", "me/base")
    assert (status, err) == (0, "")
    assert out == f"embeddings: {embeds}\nPEFT adapter: {peft}\nvectors: {npy}\n"
    config = json.loads((peft / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "me/base"
    assert np.load(npy).tobytes() == VECTORS.tobytes()
    assert embeds.is_file()

    assert run(peft, "--prompt", tmp_path / "one")[0] == 0
    one = sp.SoftPrompt.load(tmp_path / "one")
    assert one.card == sp.SoftPrompt.load(best).card
    assert run(npy, "--prompt", tmp_path / "two", "--model", model)[0] == 0
    two = sp.SoftPrompt.load(tmp_path / "two")
    assert two.card["model"] == model
    for prompt in (one, two):
        assert np.asarray(prompt.vectors).tobytes() == VECTORS.tobytes()
    assert run(npy, "--peft", tmp_path / "three", "--model", model)[0] == 0
    assert np.asarray(sp.import_peft(tmp_path / "three").vectors).tobytes() == VECTORS.tobytes()


def test_the_readme_has_licence_and_neighbours(run, tmp_path, model):
    words = ["cat", "good"]
    loaded = sp.load_model(model)
    ids = loaded.tokenizer.convert_tokens_to_ids([f"▁{word}" for word in words])
    vectors = np.asarray(loaded.module.embedding[...])[ids] * 3
    sp.SoftPrompt(jnp.asarray(vectors), {"model": model}).save(tmp_path / "words")
    target = ("--peft", tmp_path / "peft", "--license", "mit", "--neighbours")
    assert "must be at least 0" in run(tmp_path / "words", *target, -1)[2]
    assert run(tmp_path / "words", *target, 2)[0] == 0
    lines = (tmp_path / "peft" / "README.md").read_text().splitlines()
    assert "license: mit" in lines
    for position, word in enumerate(words):
        (line,) = [line for line in lines if line.startswith(f"| {position} |")]
        assert line.startswith(f"| {position} | `{word}` `")
        assert line.count("`") == 4


def test_without_a_model_on_the_card(run, tmp_path, model):
    sp.SoftPrompt(jnp.asarray(VECTORS)).save(tmp_path / "bare")
    for target in (("--peft", tmp_path / "a"), ("--embeddings", tmp_path / "e.npy", "--text", "a")):
        status, _, err = run(tmp_path / "bare", *target)
        assert status == 2
        assert "names no model" in err
        assert run(tmp_path / "bare", *target, "--model", model)[0] == 0


CASES = {
    "nothing to write": ([], "Nothing is to be written"),
    "text alone": (["--npy", "{}/a.npy", "--text", "a"], "go together"),
    "embeddings alone": (["--embeddings", "{}/a.npy"], "go together"),
    "another suffix": (["--embeddings", "{}/a.pt", "--text", "a"], "rename it"),
    "a file that is there": (["--npy", "{}/there.npy"], "is there already"),
    "no repository": (["--push-to-hub", "boolq"], "write it as owner/name"),
    "a number": (["--peft", "{}/a", "--neighbours", "many"], "see --help"),
    "no option": (["--onnx", "{}/a"], "see --help"),
    "another width": (["--npy", "{}/a.npy", "--model", "{}/wide"], "The prompt is 32 wide"),
    "no model": (["--npy", "{}/a.npy", "--model", "./no where"], "There is no folder"),
    "something else": (["--prompt", "{}/there"], "holds something else"),
    "something else than an adapter": (
        ["--embeddings", "{}/a.npy", "--text", "a", "--peft", "{}/there"],
        "holds something else",
    ),
    "neighbours of nothing": (["--npy", "{}/a.npy", "--neighbours", "3"], "--neighbours is for"),
    "licence of nothing": (
        ["--npy", "{}/a.npy", "--license", "mit"],
        "--license is for what --peft",
    ),
    "base model of nothing": (["--prompt", "{}/a", "--base-model", "a/b"], "--base-model is for"),
    "private nothing": (["--peft", "{}/a", "--private"], "--private is for --push-to-hub"),
    "revision of a folder": (["--peft", "{}/a", "--revision", "main"], "is a folder or file here"),
    "no npy": (["--npy", "{}/a"], "give the file a name that ends in .npy"),
    "one file for two": (
        ["--npy", "{0}/a.npy", "--embeddings", "{0}/a.npy", "--text", "a"],
        "name one file",
    ),
    "no folder": (["--npy", "{}/there.npy/a.npy"], "cannot be written"),
    "no folder either": (["--peft", "{}/there.npy/a"], "cannot be written"),
}


@pytest.mark.parametrize("name", CASES)
def test_refused(run, best, tmp_path, name):
    arguments, message = CASES[name]
    (tmp_path / "there.npy").write_bytes(b"mine")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "thesis.tex").write_text("mine")
    make_tiny(tmp_path / "wide", "gpt2", n_layer=1, n_embd=64)
    before = sorted(tmp_path.rglob("*"))
    status, out, err = run(best, *(each.format(tmp_path) for each in arguments))
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("damage", ["truncated", "pickled", "missing"])
def test_a_damaged_source_leaves_nothing_behind(run, best, tmp_path, damage):
    assert run(best, "--peft", tmp_path / "peft")[0] == 0
    path = tmp_path / "peft" / "adapter_model.safetensors"
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-1] if damage == "truncated" else b"\x80\x04." * 99)
    before = sorted(tmp_path.rglob("*"))
    targets = [f"--{name}={tmp_path / name}" for name in ("prompt", "npy", "peft")]
    status, out, err = run(tmp_path / "peft", *targets[:2], f"--peft={tmp_path / 'new'}")
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
