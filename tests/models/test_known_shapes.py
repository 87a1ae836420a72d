import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from softprompt_jax.errors import UserError
from softprompt_jax.models.families import build_module, config_from_hf
from softprompt_jax.models.known_shapes import KNOWN_SHAPES, model_config
from softprompt_jax.models.loading import resolve_model


def test_a_known_shape_is_that_of_the_files():
    of_files = resolve_model("smollm2-135m").config
    known = model_config("smollm2-135m")
    # The file keeps this number in float32.
    assert known.epsilon == pytest.approx(of_files.epsilon, rel=1e-7)
    assert dataclasses.replace(known, epsilon=of_files.epsilon) == of_files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "millions"),
    [
        # As the checkpoints count, embedding and head apart.
        ("google/t5-v1_1-small", 77.0),
        ("google/t5-base-lm-adapt", 247.6),
        ("google/flan-t5-large", 783.2),
        ("google/t5-v1_1-xl", 2849.8),
        ("google/t5-xxl-lm-adapt", 11135.3),
        ("google-t5/t5-base", 222.9),
        ("google-t5/t5-3b", 2851.6),
        ("HuggingFaceTB/SmolLM2-360M", 361.8),
        ("meta-llama/Llama-2-7b-hf", 6738.4),
        ("meta-llama/Llama-3.1-8B", 8030.3),
        ("meta-llama/Llama-3.2-1B", 1235.8),
        ("openai-community/gpt2-xl", 1557.6),
    ],
)
def test_parameters_are_as_many_as_published(name, millions):
    config = model_config(name)
    module = nnx.eval_shape(lambda: build_module(config, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(module)))
    assert count / 1e6 == pytest.approx(millions, abs=0.05)


def test_every_known_shape_is_read():
    for name, raw in KNOWN_SHAPES.items():
        assert config_from_hf(raw) == model_config(name)


def test_an_unknown_name_goes_to_its_files(tmp_path):
    with pytest.raises(UserError, match=r"config\.json"):
        model_config(str(tmp_path))
