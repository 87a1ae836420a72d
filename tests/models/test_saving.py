"""A saved model is the same model, for us bit by bit and for transformers."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from lively_models import VARIANTS, load_torch, make_lively, random_rows
from safetensors.numpy import load_file

from softprompt_jax.errors import UserError
from softprompt_jax.models import load_model, save_model
from softprompt_jax.models.saving import torch_state

CONFIGS = {
    **{variant: (variant, {}) for variant in VARIANTS},
    "t5, tied by its config alone": ("t5", {"tie_word_embeddings": True}),
    "mt5": ("t5", {"model_type": "mt5", "architectures": ["MT5ForConditionalGeneration"]}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, own head": ("llama", {"tie_word_embeddings": False}),
    "qwen3": ("llama", {"model_type": "qwen3", "head_dim": 16}),
    "qwen2": ("llama", {"model_type": "qwen2"}),
    "gpt2, own head": ("gpt2", {"tie_word_embeddings": False}),
    "of bfloat16": ("llama", {"torch_dtype": "bfloat16"}),
}
IDS = random_rows((9, 9))


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    def make(case, dtype="float32"):
        variant, overrides = CONFIGS[case]
        folder = make_lively(tmp_path_factory.mktemp("model"), variant, **overrides)
        return load_model(str(folder), dtype)

    return make


def leaves(module):
    return {path: leaf[...] for path, leaf in nnx.to_flat_state(nnx.state(module))}


def logits(model):
    return np.asarray(model.logits(IDS, None, IDS if model.is_encoder_decoder else None))


@pytest.mark.parametrize("case", CONFIGS)
def test_round_trip(make, tmp_path, case):
    torch = pytest.importorskip("torch")
    model = make(case)
    save_model(tmp_path / "saved", model)
    again = load_model(str(tmp_path / "saved"))
    assert again.config == model.config
    before, after = leaves(model.module), leaves(again.module)
    assert before.keys() == after.keys()
    for path, values in before.items():
        assert values.dtype == after[path].dtype == jnp.float32
        np.testing.assert_array_equal(after[path], values, err_msg=str(path))
    assert again.fingerprint == model.fingerprint
    text = "the movie was xyz"
    assert again.tokenizer(text)["input_ids"] == model.tokenizer(text)["input_ids"]

    reference = load_torch(tmp_path / "saved")
    assert reference.dtype == torch.float32
    extra = {"decoder_input_ids": torch.tensor(IDS)} if model.is_encoder_decoder else {}
    with torch.no_grad():
        theirs = reference(torch.tensor(IDS), **extra).logits.numpy()
    ours = logits(model)
    assert np.abs(ours).max() > 1
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


def test_bfloat16(make, tmp_path):
    model = make("gpt2", "bfloat16")
    save_model(tmp_path / "saved", model)
    stored = load_file(tmp_path / "saved" / "model.safetensors")
    assert {values.dtype.name for values in stored.values()} == {"bfloat16"}
    again = load_model(str(tmp_path / "saved"), "bfloat16")
    for path, values in leaves(model.module).items():
        np.testing.assert_array_equal(leaves(again.module)[path], values)


def test_another_module_is_saved(make, tmp_path):
    """As after model tuning: config and tokenizer of the model, weights of the module."""
    model = make("gpt2")
    graphdef, state = nnx.split(model.module)
    tuned = nnx.merge(graphdef, jax.tree.map(lambda x: x + 1, state))
    save_model(tmp_path / "saved", model, module=tuned)
    saved = leaves(load_model(str(tmp_path / "saved")).module)
    for path, values in leaves(model.module).items():
        np.testing.assert_array_equal(saved[path], values + 1)
    # The next best model replaces it.
    save_model(tmp_path / "saved", model)
    assert load_model(str(tmp_path / "saved")).fingerprint == model.fingerprint
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]


def test_names_and_layout_are_those_of_the_file(make):
    for case in ("t5", "t5 1.0", "mistral", "gpt2"):
        model = make(case)
        stored = load_file(Path(model.name) / "model.safetensors")
        state = torch_state(model.module, model.config.family)
        assert state.keys() == stored.keys()
        for name, values in stored.items():
            assert state[name].flags["C_CONTIGUOUS"]
            np.testing.assert_array_equal(state[name], values)


def test_the_config_is_kept(make, tmp_path):
    model = make("mistral")
    save_model(tmp_path / "saved", model)
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved == model.raw_config | {"dtype": "float32"}


def test_only_a_model_is_replaced(make, tmp_path):
    (tmp_path / "thesis.tex").write_text("three years")
    with pytest.raises(UserError, match="holds something else than a model"):
        save_model(tmp_path, make("gpt2"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    clone = tmp_path / "clone"
    save_model(clone, make("gpt2"))
    save_model(clone, make("gpt2"))
    # Of an earlier version, and of a tokenizer with several chat templates.
    (clone / "special_tokens_map.json").write_text("{}")
    (clone / "additional_chat_templates").mkdir()
    save_model(clone, make("gpt2"))
    assert not (clone / "special_tokens_map.json").exists()
    for thing in (".git", "results", "README.md"):
        (clone / thing).mkdir()
        with pytest.raises(UserError, match="holds something else than a model"):
            save_model(clone, make("gpt2"))
        (clone / thing).rmdir()  # it is there still
