"""Prefix tuning: keys and values of every layer instead of vectors."""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, ArrayLike, Float

from softprompt_jax.models.attention import KeysValues, Past
from softprompt_jax.prompts.prompted_model import PastPair, PromptNetwork
from softprompt_jax.prompts.reparameterizations.base import Reparameterization


class LayerPrefix(Reparameterization):
    """What a causal model's layers keep of P positions before the text, each layer's trained apart.

    Parameters: 2 L P G K, with L layers and G heads of keys and values of width K.

    Args:
        keys: float32 `[L, G, P, K]`, with their positions applied where that is done to keys.
        values: float32 `[L, G, P, K]`.

    References:
        Li and Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", section 4,
        without its MLP; Liu et al. 2022, "P-Tuning v2", section 3.
    """

    folds: ClassVar[bool] = False
    kind: ClassVar[str] = "prefix"

    def __init__(self, keys: Float[Array, "L G P K"], values: Float[Array, "L G P K"]):
        self.keys = PromptNetwork(keys)
        self.values = PromptNetwork(values)

    @property
    def length(self) -> int:
        """P."""
        return self.keys.shape[2]

    @property
    def layers(self) -> list[KeysValues]:
        """Each layer's keys and values, of one row for all, `[1, G, P, K]`."""
        keys, values = self.keys[...][:, None], self.values[...][:, None]
        return [KeysValues(*layer) for layer in zip(keys, values, strict=True)]

    @property
    def served(self) -> Past:
        """Each layer's keys and values."""
        return Past(self.layers, None)

    def fits(self, config: Any) -> bool:
        """Whether a model of this configuration has such layers."""
        return not config.is_encoder_decoder and self._is_for(config, config.n_layers)

    def _is_for(self, config: Any, n_layers: int) -> bool:
        heads = getattr(config, "n_kv_heads", config.n_heads)
        width = getattr(config, "head_width", config.d_model // config.n_heads)
        return self.keys.shape == (n_layers, heads, self.length, width)


class EncoderDecoderPrefix(Reparameterization):
    """A prefix for the self-attention of T5's decoder, and one for that of its encoder.

    What the decoder takes from the input by cross-attention has no prefix.

    Parameters: as of two of `LayerPrefix`.

    Args:
        decoder: for the decoder's layers.
        encoder: for the encoder's; None: as PEFT, which trains the decoder's only.

    References:
        As `LayerPrefix`.
    """

    folds: ClassVar[bool] = False
    kind: ClassVar[str] = "prefix"

    def __init__(self, decoder: LayerPrefix, encoder: LayerPrefix | None):
        self.decoder = decoder
        self.encoder = encoder

    @property
    def length(self) -> int:
        """P."""
        return self.decoder.length

    @property
    def served(self) -> PastPair:
        """Each layer's keys and values."""
        encoder = None if self.encoder is None else self.encoder.layers
        return PastPair(encoder, self.decoder.layers)

    def fits(self, config: Any) -> bool:
        """Whether a model of this configuration has such layers."""
        if not config.is_encoder_decoder:
            return False
        encoder = self.encoder
        if encoder is not None and not encoder._is_for(config, config.n_layers):
            return False
        return self.decoder._is_for(config, config.n_decoder_layers)


def start_prefix(
    model: Any, vectors: Float[ArrayLike, "P D"]
) -> LayerPrefix | EncoderDecoderPrefix:
    """The keys and values that a model has of the vectors.

    A causal model's first logits are those of a plain prompt. T5's encoder and decoder have those
    of the vectors alone, which is another start: with a plain prompt they would see the text too.
    (Li and Liang start from keys and values of real words: section 7.4.)

    Args:
        model: `T5`, `Llama` or `GPT2`; may be traced.
        vectors: how a plain prompt would start.
    """
    graphdef, state = nnx.split(model)
    if not model.config.is_encoder_decoder:
        return _stack(_compute(graphdef, state, vectors))
    encoder, decoder = _compute(graphdef, state, vectors)
    return EncoderDecoderPrefix(_stack(decoder), _stack(encoder))


def _stack(layers: list[KeysValues]) -> LayerPrefix:
    keys, values = (jnp.stack([layer[i][0] for layer in layers]) for i in (0, 1))
    return LayerPrefix(keys.astype(jnp.float32), values.astype(jnp.float32))


@functools.partial(jax.jit, static_argnums=0)
def _compute(graphdef: Any, state: Any, vectors_PxD: Any) -> Any:
    model: Any = nnx.merge(graphdef, state)
    vectors_PxD = vectors_PxD.astype(model.embedding[...].dtype)
    if model.config.is_encoder_decoder:
        return model.prefix(vectors_PxD)
    return model.prefix(vectors_PxD[None]).layers
