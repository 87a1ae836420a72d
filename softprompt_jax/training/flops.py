"""How much a training step has to compute at least."""

from typing import NamedTuple

from softprompt_jax.config import RunConfig
from softprompt_jax.data.buckets import Shape
from softprompt_jax.models.families import ModelConfig
from softprompt_jax.models.gpt2 import GPT2Config
from softprompt_jax.models.llama import LlamaConfig
from softprompt_jax.models.t5_config import T5Config


class _Width(NamedTuple):
    """Multiply-adds of a layer's matrix products, each for one position."""

    query: int  # also the projection back
    key: int  # also the values
    mlp: int
    pair: int  # of a query with a key; also of a weight with a value


def run_step_flops(config: RunConfig, model: ModelConfig, shape: Shape) -> int:
    """`step_flops` of a run's step, for its log, its plan and the benchmark.

    A prefix goes through no layer, so it counts as a prompt without a token: attention to its keys
    and values is left out.

    Args:
        config: the run.
        model: its architecture.
        shape: tokens that inputs and targets are padded to.
    """
    options = config.train
    length = 0 if config.prompt.parameterization == "prefix" else config.prompt.length
    return step_flops(model, shape, options.batch_size, length, options.method)


def step_flops(
    config: ModelConfig,
    shape: Shape,
    batch_size: int,
    prompt_length: int,
    method: str = "prompt_tuning",
) -> int:
    """The least that a training step computes: matrix products, 2 FLOPs a multiply-add.

    Counted are the projections, the feed-forward layers, attention's scores and mixing (all pairs
    of the padded shape, also those that a mask hides) and the vocabulary at target positions. The
    forward pass counts once. The backward pass repeats every projection, and both products of
    attention twice, wherever the prompt has an influence; weights have no gradients. So:

    - T5: in the encoder's first layer gradients go to the prompt's positions only; in the decoder's
      first one none goes through self-attention and to the queries of cross-attention.
    - Causal models: the prompt goes through once, whatever the batch, and not through the last
      layer, of which only its keys and values are needed; of the text the last layer has target
      positions only; in the first layer gradients go to the prompt alone.

    Model tuning has no prompt, repeats every projection twice (for activations and weights) and
    spares nothing in the first layer.

    Args:
        config: of the model.
        shape: tokens that inputs and targets are padded to.
        batch_size: rows a step.
        prompt_length: virtual tokens.
        method: "prompt_tuning" or "model_tuning".

    Returns:
        FLOPs of all devices together.
    """
    tuned = method == "model_tuning"
    prompt = 0 if tuned else prompt_length
    if isinstance(config, T5Config):
        multiply_adds = batch_size * _encoder_decoder(config, shape, prompt, tuned)
    else:
        multiply_adds = _causal(config, shape, batch_size, prompt, tuned)
    vocabulary = batch_size * shape.targets * config.d_model * config.vocab_size
    return 2 * (multiply_adds + (3 if tuned else 2) * vocabulary)


def _width(config: ModelConfig) -> _Width:
    width = config.d_model
    inner = width if isinstance(config, GPT2Config) else config.n_heads * config.head_width
    key = config.n_kv_heads * config.head_width if isinstance(config, LlamaConfig) else inner
    gated = isinstance(config, LlamaConfig) or (isinstance(config, T5Config) and config.gated)
    return _Width(width * inner, width * key, (3 if gated else 2) * width * config.d_ff, inner)


def _encoder_decoder(config: T5Config, shape: Shape, prompt: int, tuned: bool) -> int:
    """Multiply-adds of a row's forward and backward pass, without the vocabulary."""
    query, key, mlp, pair = _width(config)
    source, target = prompt + shape.inputs, shape.targets
    projections = 3 if tuned else 2

    encoder = projections * source * (2 * query + 2 * key + mlp) + 6 * source * source * pair
    self_attention = projections * target * (2 * query + 2 * key) + 6 * target * target * pair
    cross_attention = (
        projections * (target * 2 * query + source * 2 * key) + 6 * target * source * pair
    )
    decoder = self_attention + cross_attention + projections * target * mlp
    total = config.n_layers * encoder + config.n_decoder_layers * decoder
    if tuned:
        return total
    # The text's queries, keys and values of the first layer know nothing of the prompt.
    text = shape.inputs
    total -= text * (query + 2 * key) + 3 * source * text * pair
    # Nor does what the decoder's first layer asks with.
    total -= target * (2 * query + 2 * key) + 4 * target * target * pair
    total -= target * query + target * source * pair
    return total


def _causal(
    config: LlamaConfig | GPT2Config, shape: Shape, batch_size: int, prompt: int, tuned: bool
) -> int:
    """Multiply-adds of a batch's forward and backward pass, without the vocabulary."""
    query, key, mlp, pair = _width(config)
    text = shape.inputs + shape.targets - 1
    projections = 3 if tuned else 2
    total = 0
    for layer in range(config.n_layers):
        last = layer == config.n_layers - 1
        # In the last layer only the positions that predict a target ask.
        asking = batch_size * (shape.targets if last else text)
        outputs = asking * (query + mlp)
        inputs = asking * query + batch_size * text * 2 * key
        pairs = asking * (prompt + text) * pair
        total += projections * (outputs + inputs) + 6 * pairs
        if layer == 0 and not tuned:
            # Only the prompt's keys and values know of the prompt.
            total -= inputs + pairs + 2 * asking * text * pair
        total += 2 * prompt * 2 * key
        if not last:
            total += 2 * prompt * (2 * query + mlp) + 6 * prompt * prompt * pair
    return total
