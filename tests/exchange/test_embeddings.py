"""Prompt and text embedded: another program gets the logits that we get."""

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from lively_models import load_torch, make_lively, random_prompt

import softprompt_jax as sp
from softprompt_jax.exchange import export_embeddings

TEXT = "is the movie good"


@pytest.fixture(scope="module", params=["t5", "gpt2", "llama"])
def model(request, tmp_path_factory):
    return sp.load_model(str(make_lively(tmp_path_factory.mktemp("base"), request.param)))


def read(path):
    if path.suffix == ".npy":
        return np.load(path, allow_pickle=False)
    tensors = safetensors.numpy.load_file(path)
    assert list(tensors) == ["prompt_embeds"]
    return tensors["prompt_embeds"]


@pytest.mark.parametrize("name", ["request.safetensors", "request.npy"])
def test_the_logits_of_transformers(model, name, tmp_path):
    torch = pytest.importorskip("torch")
    prompt = sp.SoftPrompt(jnp.asarray(random_prompt(5)))
    export_embeddings(prompt, tmp_path / name, model=model, text=TEXT)
    rows = read(tmp_path / name)
    ids = model.tokenizer(TEXT)["input_ids"]
    assert rows.dtype == np.float32
    assert rows.shape == (5 + len(ids), 32)
    assert rows[:5].tobytes() == np.asarray(prompt.vectors).tobytes()
    start = {"decoder_input_ids": torch.tensor([[0]])} if model.is_encoder_decoder else {}
    with torch.no_grad():
        output = load_torch(model.name)(inputs_embeds=torch.tensor(rows)[None], **start)
    theirs = output.logits.numpy()[0, -1]
    ours = model.logits([ids], None, [[0]] if start else None, prompt)[0, -1]
    assert np.abs(theirs).max() > 1
    np.testing.assert_allclose(ours, theirs, atol=1e-5 * np.abs(theirs).max())


def test_the_models_dtype_changes_the_text_only(model, tmp_path):
    prompt = sp.SoftPrompt(jnp.asarray(random_prompt(5)))
    half = sp.load_model(model.name, "bfloat16")
    export_embeddings(prompt, tmp_path / "a.npy", model=half, text=TEXT)
    rows = read(tmp_path / "a.npy")
    assert rows.dtype == np.float32
    assert rows[:5].tobytes() == np.asarray(prompt.vectors).tobytes()
    export_embeddings(prompt, tmp_path / "b.npy", model=model, text=TEXT)
    np.testing.assert_allclose(rows, read(tmp_path / "b.npy"), rtol=2**-8)


def test_what_is_refused(model, tmp_path):
    def told(prompt, name="request.npy", text=TEXT):
        with pytest.raises(sp.UserError) as caught:
            export_embeddings(sp.SoftPrompt(prompt), tmp_path / name, model=model, text=text)
        assert list(tmp_path.iterdir()) == []
        return str(caught.value)

    good = random_prompt(5)
    assert "The prompt is 16 wide" in told(good[:, :16])
    assert "rename it" in told(good, "request.pt")
    assert "not finite" in told(good * np.nan)
    if model.config.family == "gpt2":
        assert "has no tokens" in told(good, text=" ")
        assert "reads 512 at most" in told(good, text="good " * 507)
        assert "reads 512 at most" in told(random_prompt(512))
