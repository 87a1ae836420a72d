"""A stack holds what its blocks held."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny_models import make_tiny

from softprompt_jax.errors import UserError
from softprompt_jax.models.families import build_module, config_from_hf
from softprompt_jax.models.loading import load_model, resolve_model
from softprompt_jax.models.stacking import (
    block_at,
    each_layer,
    is_of_stack,
    is_stacked,
    layer_count,
    stack_blocks,
)

FAMILIES = ("t5", "llama", "gpt2")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {f: make_tiny(tmp_path_factory.mktemp(f), f) for f in FAMILIES}


def holders(module):
    return [module] if hasattr(module, "blocks") else [module.encoder, module.decoder]


def leaves(module):
    state = nnx.to_flat_state(nnx.state(module))
    return {".".join(map(str, path)): leaf[...] for path, leaf in state}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stack_holds_the_layers_in_order(folders, family):
    module = load_model(str(folders[family])).module
    stacked = stack_blocks(module)
    plain = leaves(module)
    seen = set()
    for path, values in leaves(stacked).items():
        parts = [path]
        if is_of_stack(path):
            parts = list(each_layer(path, 2))
            for part, layer in zip(parts, values, strict=True):
                np.testing.assert_array_equal(layer, plain[part])
        else:
            np.testing.assert_array_equal(values, plain[path])
        seen |= set(parts)
    assert seen == set(plain)
    for before, after in zip(holders(module), holders(stacked), strict=True):
        assert not is_stacked(before.blocks)  # what was given is as it was
        assert is_stacked(after.blocks)
        assert layer_count(after.blocks) == 2
        second = leaves(block_at(after.blocks, 1))
        for path, values in leaves(before.blocks[1]).items():
            np.testing.assert_array_equal(second[path], values)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_stack_stays_as_it_is(folders, family):
    once = stack_blocks(load_model(str(folders[family])).module)
    twice = stack_blocks(once)
    assert nnx.split(twice)[0] == nnx.split(once)[0]
    jax.tree.map(np.testing.assert_array_equal, nnx.state(twice), nnx.state(once))


@pytest.mark.parametrize("family", FAMILIES)
def test_abstract_modules(folders, family):
    config = resolve_model(str(folders[family])).config
    abstract = nnx.eval_shape(lambda: build_module(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    real = build_module(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0))

    def told(module):
        graphdef, state = nnx.split(module)
        return graphdef, jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype.name), state)

    stacked = stack_blocks(abstract)
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(nnx.state(stacked)))
    assert told(stacked) == told(stack_blocks(real))


def test_layers_that_differ(folders):
    module = load_model(str(folders["llama"])).module
    norm = module.blocks[1].mlp_norm
    epsilon = norm.epsilon
    norm.epsilon = 1.0
    with pytest.raises(UserError, match="differ"):
        stack_blocks(module)
    norm.epsilon = epsilon
    stack_blocks(module)
    module.blocks[1].mlp.down.kernel = nnx.Param(jnp.zeros((96, 32)))
    with pytest.raises(UserError, match="differ"):
        stack_blocks(module)


def test_layers_that_see_differently_far():
    raw = {
        "model_type": "qwen2",
        "vocab_size": 16,
        "hidden_size": 8,
        "intermediate_size": 8,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
    }
    config = config_from_hf(raw)
    module = nnx.eval_shape(lambda: build_module(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    with pytest.raises(UserError, match="sliding windows"):
        stack_blocks(module)
