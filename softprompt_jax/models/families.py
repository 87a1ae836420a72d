"""From a parsed config.json to the family's configuration, and from that to its module."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from softprompt_jax.models.gpt2 import GPT2, GPT2Config
from softprompt_jax.models.llama import Llama, LlamaConfig
from softprompt_jax.models.raw_config import check_model_type
from softprompt_jax.models.t5 import T5
from softprompt_jax.models.t5_config import T5Config

ModelConfig = T5Config | LlamaConfig | GPT2Config
Module = T5 | Llama | GPT2

CONFIG_OF_MODEL_TYPE: dict[str, type[ModelConfig]] = {
    "t5": T5Config,
    "mt5": T5Config,
    "llama": LlamaConfig,
    "mistral": LlamaConfig,
    "qwen2": LlamaConfig,
    "qwen3": LlamaConfig,
    "gpt2": GPT2Config,
}
"""`model_type` of a config.json to our configuration."""


def config_from_hf(raw: Mapping[str, Any]) -> ModelConfig:
    """Reads a parsed config.json.

    Raises:
        UserError: the model type, or something that the file asks for, is not supported.
    """
    return CONFIG_OF_MODEL_TYPE[check_model_type(raw, CONFIG_OF_MODEL_TYPE)].from_hf(raw)


def build_module(config: ModelConfig, *, dtype: DTypeLike, rngs: nnx.Rngs) -> Module:
    """Makes the module with random parameters (under `nnx.eval_shape`: with shapes only)."""
    if isinstance(config, T5Config):
        return T5(config, dtype=dtype, rngs=rngs)
    if isinstance(config, LlamaConfig):
        return Llama(config, dtype=dtype, rngs=rngs)
    return GPT2(config, dtype=dtype, rngs=rngs)


def parameter_count(config: ModelConfig) -> int:
    """Number of parameters."""
    abstract = nnx.eval_shape(lambda: build_module(config, dtype=jnp.float32, rngs=nnx.Rngs(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(abstract)))
