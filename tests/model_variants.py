"""config.json of every variant of every family, as published files have it, with tiny sizes."""

T5 = {
    "model_type": "t5",
    "vocab_size": 97,
    "d_model": 48,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 20,
    "feed_forward_proj": "relu",
    "decoder_start_token_id": 0,
}
T5_VARIANTS = {
    "v1.0": T5,
    "v1.1": T5 | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "gated-silu, tied": T5 | {"feed_forward_proj": "gated-silu"},
    "byt5": T5
    | {
        "feed_forward_proj": "gated-gelu",
        "num_layers": 3,
        "num_decoder_layers": 1,
        "tie_word_embeddings": False,
    },
    "mt5": T5
    | {"model_type": "mt5", "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    "default buckets": {
        k: v for k, v in T5.items() if not k.startswith("relative_attention") and k != "num_layers"
    }
    | {"num_layers": 1},
}

LLAMA = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 24,
}
MISTRAL = LLAMA | {"model_type": "mistral", "num_key_value_heads": 2, "sliding_window": 7}
QWEN2 = LLAMA | {"model_type": "qwen2", "num_key_value_heads": 2, "tie_word_embeddings": True}
QWEN3 = LLAMA | {"model_type": "qwen3", "num_key_value_heads": 2, "head_dim": 16}
GPT2 = {
    "model_type": "gpt2",
    "vocab_size": 97,
    "n_embd": 48,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
}
CAUSAL_VARIANTS = {
    "llama 2": LLAMA,
    "llama 3": LLAMA
    | {"num_key_value_heads": 2, "rope_theta": 5e5, "rope_scaling": LLAMA3_SCALING, "head_dim": 16},
    "llama, linear rope": LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.5}},
    "smollm": LLAMA | {"num_key_value_heads": 3, "tie_word_embeddings": True, "rope_theta": 1e5},
    "llama with biases": LLAMA | {"attention_bias": True, "mlp_bias": True},
    "llama, transformers 5": {k: v for k, v in LLAMA.items() if k != "rope_theta"}
    | {"rope_parameters": {**LLAMA3_SCALING, "rope_theta": 7e4}},
    "mistral": MISTRAL,
    "mistral without window": MISTRAL | {"sliding_window": None},
    "qwen2": QWEN2,
    "qwen2 with windows": QWEN2
    | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "qwen3": QWEN3,
    "gpt2": GPT2,
    "gpt2, own head and width": GPT2 | {"n_inner": 80, "tie_word_embeddings": False},
}
