"""Every parameter of every family has one rule, and axes that do not fit are left out."""

import re

import jax.numpy as jnp
import pytest
from flax import nnx
from jax.sharding import PartitionSpec

from softprompt_jax.models.families import build_module, config_from_hf
from softprompt_jax.models.stacking import stack_blocks
from softprompt_jax.training.sharding_rules import RULES, partition_spec

MESH = {"data": 1, "fsdp": 4, "tensor": 2}

T5 = {
    "model_type": "t5",
    "vocab_size": 64,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 63,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 16,
}
MODELS = {
    "t5": T5,
    "t5 1.0": T5 | {"feed_forward_proj": "relu", "tie_word_embeddings": True},
    "llama": LLAMA,
    "llama with biases": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "qwen2": LLAMA | {"model_type": "qwen2"},
    "qwen3": LLAMA | {"model_type": "qwen3", "head_dim": 16},
    "gpt2": GPT2,
    "gpt2, own head": GPT2 | {"tie_word_embeddings": False},
}


def shapes(raw, stacked=False):
    """Dotted path to shape."""
    config = config_from_hf(raw)
    module = nnx.eval_shape(lambda: build_module(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    state = nnx.to_flat_state(nnx.state(stack_blocks(module) if stacked else module))
    return {".".join(map(str, path)): leaf.shape for path, leaf in state}


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_has_one_rule(name):
    for path in shapes(MODELS[name]) | shapes(MODELS[name], stacked=True):
        assert sum(re.fullmatch(pattern, path) is not None for pattern, _ in RULES) == 1, path


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("stacked", [False, True])
def test_every_matrix_is_shared_by_all_devices(name, stacked):
    whole = {"encoder.relative_bias", "decoder.relative_bias", "position_embedding"}
    for path, shape in shapes(MODELS[name], stacked).items():
        spec = partition_spec(path, shape, MESH)
        if stacked and "blocks" in path and spec:
            assert spec[0] is None
            spec, shape = PartitionSpec(*spec[1:]), shape[1:]
        if path in whole or "norm" in path:
            assert spec == PartitionSpec()
        elif path == "embedding" and "gpt2" in name:
            assert spec == PartitionSpec(None, "fsdp")  # 63 rows
        elif path == "head.kernel" and "gpt2" in name:
            assert spec == PartitionSpec("fsdp", None)
        elif len(spec) == 2:
            assert set(spec) == {"fsdp", "tensor"}, path
            assert (spec[1] == "tensor") == bool(re.search(r"(q|k|v|gate|up|head)\.kernel", path))
        else:
            assert path.endswith("bias")


def test_the_known_places():
    assert partition_spec("embedding", (64, 32), MESH) == PartitionSpec("tensor", "fsdp")
    up = "encoder.blocks.11.mlp.up"
    assert partition_spec(f"{up}.kernel", (32, 64), MESH) == PartitionSpec("fsdp", "tensor")
    assert partition_spec(f"{up}.bias", (64,), MESH) == PartitionSpec("tensor")
    down = "blocks.mlp.down"
    assert partition_spec(f"{down}.kernel", (2, 64, 32), MESH) == PartitionSpec(
        None, "tensor", "fsdp"
    )
    assert partition_spec(f"{down}.bias", (2, 32), MESH) == PartitionSpec()


def test_axes_that_do_not_fit():
    path = "blocks.0.attention.k.kernel"
    assert partition_spec(path, (30, 3), MESH) == PartitionSpec(None, None)
    assert partition_spec(path, (32, 3), MESH) == PartitionSpec("fsdp", None)
    assert partition_spec(path, (32, 64), {"devices": 8}) == PartitionSpec(None, None)


@pytest.mark.parametrize("path", ["blocks.0.attention.z.kernel", "model.embedding", "prompt"])
def test_unknown_paths(path):
    with pytest.raises(ValueError, match=f"No sharding rule .* {path}"):
        partition_spec(path, (4, 4), MESH)


def test_another_number_of_dimensions():
    with pytest.raises(ValueError, match="for 2 dimensions, not 3"):
        partition_spec("blocks.0.attention.q.kernel", (2, 32, 32), MESH)
    with pytest.raises(ValueError, match="for 3 dimensions, not 2"):
        partition_spec("blocks.attention.q.kernel", (32, 32), MESH)
