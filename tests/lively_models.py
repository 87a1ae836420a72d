"""Tiny models whose weights tell faults: attention is sharp and no bias or scale is trivial.

The initial weights of `tiny_models` give nearly equal logits and even attention, which would hide a
wrong position or mask. These folders can be read by `load_model` and by transformers.
"""

import functools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from safetensors.numpy import load_file, save_file
from tiny_models import make_tiny

from softprompt_jax.models import LanguageModel
from softprompt_jax.prompts.prompted_model import RowPrompts

WINDOW = 5
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    # Few layers, because compiling takes most of the tests' time.
    "t5": ("t5", {"num_layers": 1, "num_decoder_layers": 1}),
    "t5 1.0": (
        "t5",
        {
            "feed_forward_proj": "relu",
            "tie_word_embeddings": True,
            "num_layers": 1,
            "num_decoder_layers": 1,
        },
    ),
    "llama": ("llama", {}),
    "mistral": (
        "llama",
        {
            "model_type": "mistral",
            "architectures": ["MistralForCausalLM"],
            "sliding_window": WINDOW,
            "tie_word_embeddings": False,
        },
    ),
    "gpt2": ("gpt2", {}),
}
CAUSAL = ("llama", "mistral", "gpt2")


def make_lively(folder: Path | str, variant: str, *, seed: int = 0, **overrides: Any) -> Path:
    """As `make_tiny`, for a name in VARIANTS."""
    family, config = VARIANTS[variant]
    folder = make_tiny(folder, family, **config | overrides)
    generator = np.random.default_rng(seed)
    state = load_file(folder / "model.safetensors")
    for name, values in state.items():
        new = generator.standard_normal(values.shape)
        if values.ndim == 1:
            new = 0.2 * new + (0 if name.endswith("bias") else 1)
        elif any(part in name for part in ("embed", "wte", "wpe")):
            new = 0.5 * new
        elif "shared" not in name and "relative_attention_bias" not in name:
            # T5 does not divide its scores by the root of the head's width.
            new = new * (1.0 if family == "t5" else 1.5) * 32**-0.5
        state[name] = new.astype(np.float32)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def load_torch(folder: Path) -> Any:
    """transformers' float32 torch model of a folder, in evaluation mode."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own deprecations are not ours
        import transformers

        config = transformers.AutoConfig.from_pretrained(folder)
        kind = "AutoModelForSeq2SeqLM" if config.is_encoder_decoder else "AutoModelForCausalLM"
        # Eager attention: the others give garbage where a query sees no key.
        loader = getattr(transformers, kind).from_pretrained
        return loader(folder, attn_implementation="eager").eval()


def random_prompt(length: int, seed: int = 0, width: int = 32) -> np.ndarray:
    """Vectors about as large as the models' embeddings, float32 [length, width]."""
    return np.random.default_rng(seed).normal(0, 0.7, (length, width)).astype(np.float32)


def random_rows(lengths: tuple[int, ...], seed: int = 0) -> list[list[int]]:
    """Rows of ordinary token ids of these lengths."""
    generator = np.random.default_rng(seed)
    return [generator.integers(4, 100, n).tolist() for n in lengths]


def pad(
    rows: list[list[int]], side: str = "right", width: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Ids int32 and mask bool, both [rows, width]; padding holds id 9, which is a real token's."""
    width = width or max(map(len, rows))
    ids, mask = np.full((len(rows), width), 9, np.int32), np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        where = slice(0, len(row)) if side == "right" else slice(width - len(row), width)
        ids[i, where], mask[i, where] = row, True
    return ids, mask


def row_prompts(prompts: list[np.ndarray]) -> RowPrompts:
    """One prompt a row; what stands beside the shorter ones is no zero, and must not be seen."""
    longest = max(map(len, prompts))
    vectors = np.full((len(prompts), longest, prompts[0].shape[1]), 7.0, np.float32)
    mask = np.zeros((len(prompts), longest), bool)
    for i, prompt in enumerate(prompts):
        vectors[i, longest - len(prompt) :] = prompt
        mask[i, longest - len(prompt) :] = True
    return RowPrompts(jnp.asarray(vectors), jnp.asarray(mask))


def compiled(function: Callable[..., Any], model: LanguageModel, *arguments: Any) -> np.ndarray:
    """The value of function(module, *arguments), compiled once for all calls alike."""
    return np.asarray(_run(function, *nnx.split(model.module), arguments))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _run(function, graphdef, state, arguments):
    return function(nnx.merge(graphdef, state), *arguments)
