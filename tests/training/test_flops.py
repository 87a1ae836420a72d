import jax
import jax.numpy as jnp
import optax
import pytest
from flax import nnx

from softprompt_jax.data.buckets import Shape
from softprompt_jax.models.families import build_module
from softprompt_jax.models.gpt2 import GPT2Config
from softprompt_jax.models.llama import LlamaConfig
from softprompt_jax.models.rotary import Rotary
from softprompt_jax.models.t5_config import T5Config
from softprompt_jax.prompts import PromptedModel
from softprompt_jax.training import partition
from softprompt_jax.training.flops import step_flops
from softprompt_jax.training.step import init_state, make_train_step

T5_1_1_BASE = T5Config(
    vocab_size=32128,
    d_model=768,
    n_layers=12,
    n_decoder_layers=12,
    n_heads=12,
    head_width=64,
    d_ff=2048,
    activation="gelu_new",
    gated=True,
    tied=False,
    scale_decoder_output=False,
)
CONFIGS = {
    "t5": T5Config(
        vocab_size=512,
        d_model=384,
        n_layers=3,
        n_decoder_layers=2,
        n_heads=4,
        head_width=128,
        d_ff=768,
        gated=True,
        tied=False,
    ),
    "llama": LlamaConfig(
        vocab_size=512,
        d_model=512,
        n_layers=3,
        n_heads=4,
        n_kv_heads=2,
        head_width=128,
        d_ff=768,
        rotary=Rotary(theta=10000.0),
        windows=(None,) * 3,
    ),
    "gpt2": GPT2Config(
        vocab_size=512, d_model=512, n_layers=2, n_heads=4, d_ff=1024, max_positions=256
    ),
}


def compiled_flops(config, shape, batch_size, prompt_length, method):
    """What XLA counts in the very step, over the shapes alone."""
    vectors = None if method == "model_tuning" else jnp.zeros((prompt_length, config.d_model))
    prompted = nnx.eval_shape(
        lambda: PromptedModel(build_module(config, dtype=jnp.float32, rngs=nnx.Rngs(0)), vectors)
    )
    graphdef, trainable, frozen = partition.split(prompted, partition.trainable_filter(method))
    optimizer = optax.sgd(0.1)
    state = jax.eval_shape(lambda: init_state(trainable, optimizer, 0))
    rows = {
        "inputs": jax.ShapeDtypeStruct((batch_size, shape.inputs), jnp.int32),
        "input_mask": jax.ShapeDtypeStruct((batch_size, shape.inputs), bool),
        "targets": jax.ShapeDtypeStruct((batch_size, shape.targets), jnp.int32),
        "target_mask": jax.ShapeDtypeStruct((batch_size, shape.targets), bool),
        "prompt_ids": jax.ShapeDtypeStruct((batch_size,), jnp.int32),
    }
    step = jax.jit(make_train_step(graphdef, optimizer))
    return step.lower(state, frozen, rows).compile().cost_analysis()["flops"]


@pytest.mark.parametrize(
    ("family", "method", "shape", "most"),
    [
        ("t5", "prompt_tuning", Shape(96, 8), 1.05),
        ("t5", "prompt_tuning", Shape(16, 40), 1.03),
        ("t5", "model_tuning", Shape(96, 8), 1.03),
        ("llama", "prompt_tuning", Shape(96, 8), 1.03),
        ("llama", "prompt_tuning", Shape(16, 40), 1.03),
        # Elsewhere than in prompt tuning, the last layer is run at all positions: here all count.
        ("llama", "model_tuning", Shape(1, 64), 1.03),
        ("gpt2", "prompt_tuning", Shape(1, 64), 1.05),
        # One matrix makes queries, keys and values: queries at all positions of the last layer too.
        ("gpt2", "prompt_tuning", Shape(96, 8), 1.15),
        ("gpt2", "model_tuning", Shape(1, 64), 1.05),
    ],
)
def test_xla_counts_a_little_more_than_the_minimum(family, method, shape, most):
    least = step_flops(CONFIGS[family], shape, 4, 48, method)
    counted = compiled_flops(CONFIGS[family], shape, 4, 48, method)
    assert 1.0 <= counted / least < most


def test_t5_1_1_base_by_hand():
    # 612 encoder and 8 decoder positions; multiply-adds of one row and layer.
    encoder_projections = 612 * (4 * 768 * 768 + 3 * 768 * 2048)
    encoder_attention = 2 * 612 * 612 * 768
    decoder_projections = 8 * (6 * 768 * 768 + 3 * 768 * 2048) + 612 * 2 * 768 * 768
    decoder_attention = 2 * 8 * (8 + 612) * 768
    vocabulary = 8 * 768 * 32128
    projections = 12 * (encoder_projections + decoder_projections) + vocabulary
    attention = 12 * (encoder_attention + decoder_attention)
    whole = 32 * 2 * (2 * projections + 3 * attention)
    # The text's queries, keys, values of the first layer; the decoder's first self-attention and
    # its queries of the encoder.
    encoder_spared = 512 * 3 * 768 * 768 + 3 * 612 * 512 * 768
    decoder_spared = 8 * 5 * 768 * 768 + 4 * 8 * 8 * 768 + 8 * 612 * 768
    counted = step_flops(T5_1_1_BASE, Shape(512, 8), 32, 100)
    assert counted == whole - 32 * 2 * (encoder_spared + decoder_spared)
    assert counted == pytest.approx(9.126e12, rel=1e-3)


def test_a_prompt_costs_a_causal_model_no_more_in_a_larger_batch():
    config, shape = CONFIGS["llama"], Shape(64, 8)
    per_row = [
        step_flops(config, shape, batch_size, 100) - batch_size * step_flops(config, shape, 1, 100)
        for batch_size in (1, 2, 3)
    ]
    once = per_row[0] - per_row[1]
    assert once > 0
    assert per_row[2] == -2 * once
