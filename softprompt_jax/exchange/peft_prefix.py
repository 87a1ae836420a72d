"""Prefixes as PEFT stores them: a row for each virtual token, of every layer's keys and values.

Row p has, for one layer after the other, the keys of all heads at position p and then the values.
For a causal model that is each layer's own. For T5 PEFT doubles the list of layers before it cuts
it into fours, of which the decoder's self-attention takes the first two: decoder layer i of L has
what stands at place 2i mod L. With an even L so half of what is stored is never used, and layer
i + L/2 has the prefix of layer i. The encoder has none.

References:
    `get_prompt` of peft 0.21.2, and `EncoderDecoderCache` of transformers 5.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from softprompt_jax.exchange.adapter_config import Adapter, PrefixShape
from softprompt_jax.prompts.reparameterizations import EncoderDecoderPrefix, LayerPrefix


def prefix_of_rows(
    rows: Float[np.ndarray, "P N"], adapter: Adapter, shape: PrefixShape
) -> LayerPrefix | EncoderDecoderPrefix:
    """The prefix that PEFT makes of its tensor."""
    parts = rows.reshape(len(rows), shape.layers, 2, shape.heads, shape.width)
    parts_LxTxGxPxK = np.ascontiguousarray(parts.transpose(1, 2, 3, 0, 4))
    if adapter.task_type == "SEQ_2_SEQ_LM":
        parts_LxTxGxPxK = parts_LxTxGxPxK[2 * np.arange(shape.layers) % shape.layers]
    keys, values = (jnp.asarray(parts_LxTxGxPxK[:, i]) for i in (0, 1))
    prefix = LayerPrefix(keys, values)
    if adapter.task_type == "SEQ_2_SEQ_LM":
        return EncoderDecoderPrefix(prefix, None)
    return prefix


def rows_of_prefix(prefix: LayerPrefix) -> Float[np.ndarray, "P N"]:
    """PEFT's tensor of a causal model's prefix, float32."""
    keys, values = (np.asarray(x[...]) for x in (prefix.keys, prefix.values))
    parts_PxLxTxGxK = np.stack([keys, values], axis=1).transpose(3, 0, 1, 2, 4)
    return np.ascontiguousarray(parts_PxLxTxGxK).reshape(prefix.length, -1)
