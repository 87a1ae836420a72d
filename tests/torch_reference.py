"""transformers' torch models with random weights, and their weights in our modules."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from softprompt_jax.models.checkpoints import load_parameters
from softprompt_jax.models.families import Module, build_module, config_from_hf

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch's own deprecations are not ours
    import torch
    import transformers

_CLASSES = {
    "t5": (transformers.T5Config, transformers.T5ForConditionalGeneration),
    "mt5": (transformers.MT5Config, transformers.MT5ForConditionalGeneration),
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM),
    "mistral": (transformers.MistralConfig, transformers.MistralForCausalLM),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM),
    "qwen3": (transformers.Qwen3Config, transformers.Qwen3ForCausalLM),
    "gpt2": (transformers.GPT2Config, transformers.GPT2LMHeadModel),
}


class StateDictSource:
    """A torch state_dict as a TensorSource."""

    path = Path("state_dict")

    def __init__(self, model: torch.nn.Module):
        self._tensors = {name: t.numpy() for name, t in model.state_dict().items()}

    def names(self) -> Mapping[str, tuple[int, ...]]:
        return {name: t.shape for name, t in self._tensors.items()}

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        return self._tensors[name][rows]

    def close(self) -> None:
        pass


def torch_config(raw: dict[str, Any]) -> Any:
    """transformers' configuration object of a parsed config.json."""
    return _CLASSES[raw["model_type"]][0].from_dict(dict(raw))


def torch_model(raw: dict[str, Any], *, seed: int = 0) -> Any:
    """A float32 model for a raw config, in evaluation mode, with weights that tell faults.

    Scores of attention are spread over several units, biases and norm scales are not trivial, and
    logits are of order 1 to 10. transformers 5 ties every T5's head; a raw config that says
    otherwise gets a head of its own here.
    """
    torch.manual_seed(seed)
    config = torch_config(raw)
    model = _CLASSES[raw["model_type"]][1]._from_config(config, attn_implementation="eager")
    untied = not raw.get("tie_word_embeddings", raw["model_type"] in ("t5", "gpt2"))
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.empty_like(model.lm_head.weight))
    is_t5 = config.is_encoder_decoder
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.normal_(0, 0.2)
                if not name.endswith("bias"):
                    weight.add_(1.0)
            elif "relative_attention_bias" in name:
                weight.normal_(0, 1.0)
            elif "embed" in name or "shared" in name or "wte" in name or "wpe" in name:
                weight.normal_(0, 1.0 if is_t5 else 0.5)
            else:
                # T5 does not divide its scores by the root of the head's width.
                gain = 1.0 if is_t5 else 1.5
                weight.normal_(0, gain * config.hidden_size**-0.5)
    return model.eval()


def our_module(model: Any, raw: dict[str, Any], dtype: Any = np.float32) -> Module:
    """Our module with the torch model's weights."""
    config = config_from_hf(raw)
    abstract = nnx.eval_shape(lambda: build_module(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    return load_parameters(StateDictSource(model), abstract, config.family, dtype)


def torch_logits(
    model: Any,
    ids: np.ndarray,
    mask: np.ndarray | None,
    decoder_ids: np.ndarray | None = None,
) -> tuple[np.ndarray, float]:
    """Logits, and how sharp attention is: the mean greatest weight of the last queries."""
    arguments: dict[str, Any] = {"input_ids": torch.from_numpy(ids), "output_attentions": True}
    if mask is not None:
        arguments["attention_mask"] = torch.from_numpy(mask.astype(np.int64))
    if decoder_ids is not None:
        arguments["decoder_input_ids"] = torch.from_numpy(decoder_ids)
    elif mask is not None:
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        arguments["position_ids"] = torch.from_numpy(positions)
    with torch.no_grad():
        output = model(**arguments)
    weights = output.attentions if decoder_ids is None else output.encoder_attentions
    # Row 0 is not padded on the left or right in these tests' masks, so its last query is real.
    sharpness = np.mean([w[0, :, -1].max(-1).values.numpy() for w in weights])
    return output.logits.numpy(), float(sharpness)


@jax.jit
def _causal(module: Module, ids: jax.Array, mask: jax.Array | None) -> jax.Array:
    return module.unembed(module(module.embed(ids), mask))


@jax.jit
def _encoder_decoder(module, ids, mask, decoder_ids) -> jax.Array:
    encoded = module.encode(module.embed(ids), mask)
    return module.unembed(module.decode(module.embed(decoder_ids), encoded, mask))


def our_logits(
    module: Any,
    ids: np.ndarray,
    mask: np.ndarray | None,
    decoder_ids: np.ndarray | None = None,
) -> np.ndarray:
    """Logits of our module, compiled once for each configuration and set of shapes."""
    mask = None if mask is None else mask.astype(bool)
    if decoder_ids is None:
        return np.asarray(_causal(module, ids.astype(np.int32), mask))
    decoder_ids = decoder_ids.astype(np.int32)
    return np.asarray(_encoder_decoder(module, ids.astype(np.int32), mask, decoder_ids))
