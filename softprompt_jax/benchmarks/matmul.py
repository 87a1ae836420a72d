"""How fast JAX multiplies matrices of a model's sizes here: the limit of a training step's speed.

A process of its own does it, because its memory would count in our side's.
"""

import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from softprompt_jax.benchmarks.worker import Answerer, serve
from softprompt_jax.models.families import ModelConfig
from softprompt_jax.models.gpt2 import GPT2Config
from softprompt_jax.models.llama import LlamaConfig
from softprompt_jax.models.t5_config import T5Config

SECONDS = 1.0  # that a measurement takes at least


def layer_widths(config: ModelConfig) -> list[int]:
    """What two layers project the model's width to and back again, one number a pair of products.

    A layer has two projections of attention's width (queries, output), two of the keys' (keys,
    values), and two or three of the feed-forward width.
    """
    is_gpt2 = isinstance(config, GPT2Config)
    inner = config.d_model if is_gpt2 else config.n_heads * config.head_width
    keys = config.n_kv_heads * config.head_width if isinstance(config, LlamaConfig) else inner
    gated = isinstance(config, LlamaConfig) or (isinstance(config, T5Config) and config.gated)
    return [inner] * 2 + [keys] * 2 + [config.d_ff] * (3 if gated else 2)


def start(setup: dict[str, Any]) -> tuple[dict[str, Any], Answerer]:
    """Compiles a chain of products: each takes the last one's result, so none can be left out.

    Args:
        setup: `rows` of the matrix that goes through the chain, its width `d_model`, the `widths`
            that it is projected to and back from, and the `dtype`.
    """
    rows, width, widths = setup["rows"], setup["d_model"], setup["widths"]
    dtype = jnp.dtype(setup["dtype"])
    keys = iter(jax.random.split(jax.random.key(0), 2 * len(widths) + 1))

    def draw(n_in: int, n_out: int) -> jax.Array:
        # So that values neither grow nor vanish.
        return (jax.random.normal(next(keys), (n_in, n_out)) * n_in**-0.5).astype(dtype)

    x = jax.random.normal(next(keys), (rows, width)).astype(dtype)
    kernels = [(draw(width, each), draw(each, width)) for each in widths]
    flops = 2 * rows * sum(2 * width * each for each in widths)

    @jax.jit
    def chain(x: jax.Array, kernels: Sequence[tuple[jax.Array, jax.Array]]) -> jax.Array:
        for there, back in kernels:
            x = (x @ there) @ back
        return x

    chain(x, kernels).block_until_ready()

    def measure(message: dict[str, Any]) -> dict[str, Any]:
        done, y, started = 0, x, time.perf_counter()
        while not done or time.perf_counter() - started < SECONDS:
            y = chain(y, kernels).block_until_ready()
            done += 1
        return {"flops_per_second": done * flops / (time.perf_counter() - started)}

    return {}, measure


if __name__ == "__main__":
    serve(start)
