"""Names from our parameters to torch's, and what tells one model's weights from others."""

import json

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from tiny_models import make_tiny

from softprompt_jax.models.checkpoints import fingerprint, torch_names
from softprompt_jax.models.families import build_module, config_from_hf
from softprompt_jax.models.loading import load_model
from softprompt_jax.models.parameter_tables import find_rule

FAMILIES = ("t5", "llama", "gpt2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {f: make_tiny(tmp_path_factory.mktemp(f), f) for f in FAMILIES}


VARIANTS = {
    "t5": ({"feed_forward_proj": "relu", "tie_word_embeddings": True}, {}),
    "llama": (
        {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False},
        {"model_type": "qwen3"},
    ),
    "gpt2": ({},),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_names_read_backwards_lead_to_the_same_parameter(folders, family):
    raw = json.loads((folders[family] / "config.json").read_text())
    for variant in VARIANTS[family]:
        config = config_from_hf(raw | variant)
        module = nnx.eval_shape(
            lambda config=config: build_module(config, dtype=jnp.float32, rngs=nnx.Rngs(0))
        )
        for keys, _ in nnx.to_flat_state(nnx.state(module)):
            path = ".".join(map(str, keys))
            for name in torch_names(family, path):
                assert find_rule(family, name) is not None, name
                assert find_rule(family, name)[0] == path


def test_fingerprint(folders, tmp_path):
    model = load_model(str(folders["llama"]))
    assert len(model.fingerprint) == 16
    assert int(model.fingerprint, 16) >= 0
    half = load_model(str(folders["llama"]), "bfloat16")
    assert half.fingerprint == model.fingerprint
    other = load_model(str(make_tiny(tmp_path, "llama", seed=1)))
    assert other.fingerprint != model.fingerprint
    # One last value of one parameter is enough.
    scale = model.module.final_norm.scale
    scale[...] = scale[...].at[-1].add(0.5)
    assert fingerprint(model.config, model.module) != half.fingerprint


def test_fingerprint_of_sharded_parameters(folders):
    model = load_model(str(folders["llama"]))
    before = model.fingerprint
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("x"))
    model.module.embedding[...] = jax.device_put(model.module.embedding[...], rows)
    assert fingerprint(model.config, model.module) == before
