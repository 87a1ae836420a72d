"""Shapes of well-known models: what their config.json says, so that planning needs no download."""

from collections.abc import Mapping
from typing import Any

from softprompt_jax.models.families import ModelConfig, config_from_hf
from softprompt_jax.models.loading import resolve_model


def _t5(d_model: int, d_ff: int, layers: int, heads: int, d_kv: int = 64) -> dict[str, Any]:
    """T5 1.0: one embedding for all, layers without gates."""
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": 32128,
        "d_model": d_model,
        "d_kv": d_kv,
        "d_ff": d_ff,
        "num_layers": layers,
        "num_decoder_layers": layers,
        "num_heads": heads,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "feed_forward_proj": "relu",
        "layer_norm_epsilon": 1e-6,
        "dropout_rate": 0.1,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }


def _t5_1_1(d_model: int, d_ff: int, layers: int, heads: int) -> dict[str, Any]:
    """T5 1.1: a head of its own, layers with gates."""
    return _t5(d_model, d_ff, layers, heads) | {
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }


def _t5_of_ours(d_model: int, d_ff: int) -> dict[str, Any]:
    """The family that this project pre-trained: T5 1.1 with narrow heads and a small vocabulary."""
    return _t5_1_1(d_model, d_ff, 4, d_model // 32) | {"vocab_size": 8192, "d_kv": 32}


def _llama(
    vocab_size: int, d_model: int, d_ff: int, layers: int, heads: int, kv_heads: int, **more: Any
) -> dict[str, Any]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocab_size,
        "hidden_size": d_model,
        "intermediate_size": d_ff,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        **more,
    }


def _smollm2(d_model: int, d_ff: int, layers: int, heads: int, kv_heads: int) -> dict[str, Any]:
    return _llama(
        49152,
        d_model,
        d_ff,
        layers,
        heads,
        kv_heads,
        rope_theta=100000.0,
        tie_word_embeddings=True,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )


def _llama3(d_model: int, d_ff: int, layers: int, heads: int, **more: Any) -> dict[str, Any]:
    return _llama(
        128256,
        d_model,
        d_ff,
        layers,
        heads,
        8,
        rope_theta=500000.0,
        bos_token_id=128000,
        eos_token_id=128001,
        **more,
    )


def _gpt2(d_model: int, layers: int, heads: int) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_embd": d_model,
        "n_layer": layers,
        "n_head": heads,
        "n_positions": 1024,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": 1e-5,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
    }


_T5_1_0_SIZES = {
    "small": _t5(512, 2048, 6, 8),
    "base": _t5(768, 3072, 12, 12),
    "large": _t5(1024, 4096, 24, 16),
    "3b": _t5(1024, 16384, 24, 32, d_kv=128),
    "11b": _t5(1024, 65536, 24, 128, d_kv=128),
}
_T5_1_1_SIZES = {
    "small": _t5_1_1(512, 1024, 8, 6),
    "base": _t5_1_1(768, 2048, 12, 12),
    "large": _t5_1_1(1024, 2816, 24, 16),
    "xl": _t5_1_1(2048, 5120, 24, 32),
    "xxl": _t5_1_1(4096, 10240, 24, 64),
}
_ROTARY_LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

KNOWN_SHAPES: Mapping[str, dict[str, Any]] = {
    **{f"google-t5/t5-{size}": raw for size, raw in _T5_1_0_SIZES.items()},
    **{f"google/t5-v1_1-{size}": raw for size, raw in _T5_1_1_SIZES.items()},
    **{f"google/t5-{size}-lm-adapt": raw for size, raw in _T5_1_1_SIZES.items()},
    **{f"google/flan-t5-{size}": raw for size, raw in _T5_1_1_SIZES.items()},
    "t5-nano": _t5_of_ours(64, 160),
    "t5-micro": _t5_of_ours(128, 320),
    "t5-mini": _t5_of_ours(224, 512),
    "smollm2-135m": _smollm2(576, 1536, 30, 9, 3),
    "HuggingFaceTB/SmolLM2-135M": _smollm2(576, 1536, 30, 9, 3),
    "HuggingFaceTB/SmolLM2-360M": _smollm2(960, 2560, 32, 15, 5),
    "meta-llama/Llama-2-7b-hf": _llama(32000, 4096, 11008, 32, 32, 32),
    "meta-llama/Llama-3.1-8B": _llama3(
        4096, 14336, 32, 32, rope_scaling=_ROTARY_LLAMA3 | {"factor": 8.0}
    ),
    "meta-llama/Llama-3.2-1B": _llama3(
        2048,
        8192,
        16,
        32,
        head_dim=64,
        tie_word_embeddings=True,
        rope_scaling=_ROTARY_LLAMA3 | {"factor": 32.0},
    ),
    "openai-community/gpt2": _gpt2(768, 12, 12),
    "openai-community/gpt2-xl": _gpt2(1600, 48, 25),
}
"""Raw `config.json`s (as far as they matter here) by hub id or built-in name."""


def raw_config(name: str) -> dict[str, Any]:
    """A model's parsed config.json: from the known shapes, else from its own files.

    Args:
        name: as `load_model` takes it.

    Raises:
        UserError: as `resolve_model`, where the shape is not known.
    """
    raw = KNOWN_SHAPES.get(name)
    return resolve_model(name).raw_config if raw is None else raw


def model_config(name: str) -> ModelConfig:
    """A model's architecture: from the known shapes, else from its own files.

    Args:
        name: as `load_model` takes it.

    Raises:
        UserError: as `resolve_model`, where the shape is not known.
    """
    raw = KNOWN_SHAPES.get(name)
    return resolve_model(name).config if raw is None else config_from_hf(raw)
