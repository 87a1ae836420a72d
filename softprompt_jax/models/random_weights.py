"""Models with random weights in a known or given shape."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import nnx

from softprompt_jax.models.families import build_module, config_from_hf
from softprompt_jax.models.language_model import LanguageModel
from softprompt_jax.models.stacking import stack_blocks


def random_model(
    name: str,
    raw_config: dict[str, Any],
    *,
    dtype: str,
    seed: int,
    load_tokenizer: Callable[[], Any],
    stacked: bool = False,
) -> LanguageModel:
    """A model as it is before any training, the same in every process that asks for the same.

    Args:
        name: for the model's card.
        raw_config: a parsed `config.json`.
        dtype: "float32" or "bfloat16".
        seed: of the weights.
        load_tokenizer: gives the tokenizer when it is first asked for.
        stacked: whether the blocks are stacked.

    Raises:
        UserError: the architecture is not supported, or its blocks cannot be stacked.
    """
    config = config_from_hf(raw_config)
    module: Any = build_module(config, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(seed))
    return LanguageModel(
        name=name,
        module=stack_blocks(module) if stacked else module,
        config=config,
        raw_config=raw_config,
        load_tokenizer=load_tokenizer,
    )
