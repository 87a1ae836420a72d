"""Tiny models with random weights in transformers' format, made without network and without torch.

`make_tiny(folder, family)` writes config.json, model.safetensors and a tokenizer that works: each
of `words` is one token (with the space before it), anything else in ASCII is spelled in letters.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from flax import nnx
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from softprompt_jax.models.families import build_module, config_from_hf
from softprompt_jax.models.saving import torch_state

WORDS = (
    *("positive", "negative", "true", "false", "yes", "no", "entailment", "neutral", "spam"),
    *("sentence", "question", "answer", "premise", "hypothesis", "text", "label", "context"),
    *("the", "a", "is", "was", "it", "not", "and", "of", "to", "in", "this", "that", "very"),
    *("good", "bad", "great", "awful", "movie", "film", "story", "sky", "blue", "cat", "dog"),
)

# Special tokens in the order of their ids, which are the real models' for T5.
_SPECIAL = {
    "t5": ("<pad>", "</s>", "<unk>"),
    "llama": ("<unk>", "<s>", "</s>", "<pad>"),
    "gpt2": ("<unk>", "<|endoftext|>"),  # GPT-2 has no padding token
}
_ROLES = {
    "t5": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
    "llama": {
        "unk_token": "<unk>",
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
    },
    "gpt2": {
        "unk_token": "<unk>",
        "bos_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
    },
}
_SENTINELS = 20

_CONFIGS: dict[str, dict[str, Any]] = {
    "t5": {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "d_model": 32,
        "d_kv": 8,
        "d_ff": 64,
        "num_layers": 2,
        "num_decoder_layers": 2,
        "num_heads": 4,
        "relative_attention_num_buckets": 8,
        "relative_attention_max_distance": 16,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    },
    "llama": {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 3,
    },
    "gpt2": {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 512,
        "bos_token_id": 1,
        "eos_token_id": 1,
    },
}


def make_tiny(
    folder: Path | str,
    family: str = "t5",
    words: Sequence[str] = WORDS,
    *,
    seed: int = 0,
    **config_overrides: Any,
) -> Path:
    """Writes a tiny random model and its tokenizer.

    Args:
        folder: Where to; made if it is missing.
        family: "t5" (version 1.1: gated, a head of its own; every text ends with `</s>`), "llama"
            (every text begins with `<s>`) or "gpt2" (adds nothing and has no padding token).
        words: Words that are one token each.
        seed: Of the weights.
        **config_overrides: Keys of config.json, such as `num_layers=1`.

    Returns:
        The folder.
    """
    folder = Path(folder)
    tokenizer = write_tokenizer(folder, family, words)
    # A few rows more than tokens, as in the real models, and a number that devices can share.
    rows = -(-(tokenizer.get_vocab_size() + 1) // 64) * 64
    raw = _CONFIGS[family] | {"vocab_size": rows} | config_overrides
    (folder / "config.json").write_text(json.dumps(raw, indent=2))
    config = config_from_hf(raw)
    module = build_module(config, dtype=jnp.float32, rngs=nnx.Rngs(seed))
    save_file(torch_state(module, config.family), folder / "model.safetensors")
    return folder


def write_tokenizer(folder: Path, family: str, words: Sequence[str] = WORDS) -> Tokenizer:
    """Writes tokenizer.json and tokenizer_config.json."""
    letters = [chr(code) for code in range(33, 127)]
    pieces = [(token, 0.0) for token in _SPECIAL[family]]
    pieces += [(f"▁{word}", -1.0) for word in dict.fromkeys(words)]
    pieces += [("▁", -4.0)] + [(letter, -10.0) for letter in letters]
    unknown = _SPECIAL[family].index("<unk>")
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=unknown, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(list(_SPECIAL[family]))
    if family == "t5":
        sentinels = [f"<extra_id_{i}>" for i in reversed(range(_SENTINELS))]
        tokenizer.add_special_tokens(sentinels)
        tokenizer.post_processor = processors.TemplateProcessing(
            single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
        )
    elif family == "llama":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    description = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(description | _ROLES[family]))
    return tokenizer
