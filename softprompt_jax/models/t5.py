"""T5 and its kin: T5 1.0, T5 1.1, LM-adapted T5, Flan-T5, mT5 and ByT5.

References:
    Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer", section 2.1. Version 1.1 (gated feed-forward layers, a head of its own) is
    described in google-research/text-to-text-transfer-transformer, released_checkpoints.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from softprompt_jax.errors import UserError
from softprompt_jax.models.layers import (
    MLP,
    Dropout,
    Linear,
    RMSNorm,
    apply_dropout,
    attend,
    causal_bias,
    check_activation,
    normal_param,
    padding_bias,
    split_heads,
    unembed,
)
from softprompt_jax.models.raw_config import check_model_type, need, token_ids


@dataclass(frozen=True)
class T5Config:
    """Shape of a T5.

    Attributes:
        vocab_size: Number of rows of the embedding.
        d_model: Width of the model.
        n_layers: Encoder blocks.
        n_decoder_layers: Decoder blocks (ByT5 has fewer of them).
        n_heads: Attention heads.
        head_width: Width of a head; n_heads * head_width need not be d_model.
        d_ff: Width of the feed-forward layers.
        activation: Name in `layers.ACTIVATIONS`.
        gated: Whether the feed-forward layers are gated.
        n_buckets: Buckets of relative positions.
        max_distance: Distance in tokens from which on all share one bucket.
        epsilon: Added to the mean square in the norms.
        tied: Whether the output head is the embedding.
        scale_decoder_output: Whether the head's input is multiplied by d_model**-0.5.
        pad_id: Padding token.
        decoder_start_id: First decoder input.
        eos_ids: Tokens that end a target.
        bos_id: None: T5 has no such token.
        max_positions: None: relative positions have no limit.
    """

    family: ClassVar[str] = "t5"
    is_encoder_decoder: ClassVar[bool] = True

    vocab_size: int
    d_model: int
    n_layers: int
    n_decoder_layers: int
    n_heads: int
    head_width: int
    d_ff: int
    activation: str = "relu"
    gated: bool = False
    n_buckets: int = 32
    max_distance: int = 128
    epsilon: float = 1e-6
    tied: bool = True
    scale_decoder_output: bool = True
    pad_id: int = 0
    decoder_start_id: int = 0
    eos_ids: tuple[int, ...] = (1,)
    bos_id: int | None = None
    max_positions: int | None = None

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "T5Config":
        """Reads a parsed config.json of model type t5 or mt5.

        `tied` is what the file says; only the weights tell for sure (transformers 5 writes true
        for every T5).

        Raises:
            UserError: Another model type, quantised weights, an unknown activation function or a
                missing size.
        """
        model_type = check_model_type(raw, ("t5", "mt5"))
        projection = raw.get("feed_forward_proj", "relu" if model_type == "t5" else "gated-gelu")
        gate, _, activation = projection.rpartition("-")
        if gate not in ("", "gated"):
            raise UserError(
                f"The model's feed_forward_proj {projection!r} is not supported: "
                "choose a model with 'relu' or 'gated-gelu'."
            )
        tied = raw.get("tie_word_embeddings", model_type == "t5")
        # transformers 5 keeps the scaling apart from the tying; before, one flag meant both.
        scale = raw.get("scale_decoder_outputs", tied) if model_type == "t5" else False
        pad_id = raw.get("pad_token_id") or 0
        start_id = raw.get("decoder_start_token_id")
        return cls(
            vocab_size=need(raw, "vocab_size"),
            d_model=need(raw, "d_model"),
            n_layers=need(raw, "num_layers"),
            n_decoder_layers=raw.get("num_decoder_layers") or need(raw, "num_layers"),
            n_heads=need(raw, "num_heads"),
            head_width=need(raw, "d_kv"),
            d_ff=need(raw, "d_ff"),
            # The original code's gated "gelu" is the tanh approximation.
            activation=check_activation("gelu_new" if projection == "gated-gelu" else activation),
            gated=gate == "gated",
            n_buckets=raw.get("relative_attention_num_buckets", 32),
            max_distance=raw.get("relative_attention_max_distance", 128),
            epsilon=raw.get("layer_norm_epsilon", 1e-6),
            tied=tied,
            scale_decoder_output=scale,
            pad_id=pad_id,
            decoder_start_id=pad_id if start_id is None else start_id,
            eos_ids=token_ids(raw.get("eos_token_id", 1)),
        )


def relative_buckets(
    offsets: np.ndarray, *, bidirectional: bool, n_buckets: int, max_distance: int
) -> np.ndarray:
    """Buckets of relative positions: exact for near ones, then growing as powers.

    Args:
        offsets: Key position minus query position, int.
        bidirectional: Whether later keys have buckets of their own (the encoder).
        n_buckets: Number of buckets in all.
        max_distance: Distance in tokens from which on all share the last bucket.

    Returns:
        int32 array of the shape of offsets, in [0, n_buckets).

    References:
        Raffel et al. 2020, section 2.1; `_relative_position_bucket` of Mesh TensorFlow.
    """
    first = np.zeros_like(offsets)
    if bidirectional:
        n_buckets //= 2
        first = (offsets > 0) * n_buckets
        distances = np.abs(offsets)
    else:
        distances = np.maximum(-offsets, 0)
    n_exact = n_buckets // 2
    # float32 as in the original, whose rounding decides the buckets at the powers of two.
    ratio = np.maximum(distances, n_exact).astype(np.float32) / np.float32(n_exact)
    steps = np.log(ratio) / np.float32(math.log(max_distance / n_exact))
    far = n_exact + (steps * np.float32(n_buckets - n_exact)).astype(np.int32)
    near_or_far = np.where(distances < n_exact, distances, np.minimum(far, n_buckets - 1))
    return (first + near_or_far).astype(np.int32)


class T5Attention(nnx.Module):
    """Attention without biases and without scaling of the scores."""

    def __init__(self, config: T5Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        width, inner = config.d_model, config.n_heads * config.head_width
        linear = partial(Linear, dtype=dtype, rngs=rngs)
        self.q = linear(width, inner, std=(width * config.head_width) ** -0.5)
        self.k = linear(width, inner, std=width**-0.5)
        self.v = linear(width, inner, std=width**-0.5)
        self.o = linear(inner, width, std=inner**-0.5)
        self.n_heads = config.n_heads

    def __call__(
        self,
        x_BxLxD: jax.Array,
        keys_BxSxD: jax.Array,
        biases: tuple[jax.Array, ...],
        dropout: Dropout | None,
        site: int,
    ) -> jax.Array:
        """Attends from [B, L, D] to keys [B, S, D], with the biases of `attend`."""
        mixed = attend(
            split_heads(self.q(x_BxLxD), self.n_heads),
            split_heads(self.k(keys_BxSxD), self.n_heads),
            split_heads(self.v(keys_BxSxD), self.n_heads),
            biases,
            dropout=dropout,
            site=site,
        )
        return self.o(mixed)


class T5Block(nnx.Module):
    """Self-attention, in a decoder cross-attention, and a feed-forward layer, norms first."""

    def __init__(self, config: T5Config, *, decoder: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        norm = partial(RMSNorm, config.d_model, epsilon=config.epsilon, dtype=dtype)
        self.attention_norm = norm()
        self.attention = T5Attention(config, dtype=dtype, rngs=rngs)
        self.cross_attention_norm = norm() if decoder else None
        self.cross_attention = T5Attention(config, dtype=dtype, rngs=rngs) if decoder else None
        self.mlp_norm = norm()
        self.mlp = MLP(
            config.d_model,
            config.d_ff,
            activation=config.activation,
            gated=config.gated,
            std_in=config.d_model**-0.5,
            std_out=config.d_ff**-0.5,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        x_BxLxD: jax.Array,
        biases: tuple[jax.Array, ...],
        enc_BxSxD: jax.Array | None,
        cross_biases: tuple[jax.Array, ...],
        dropout: Dropout | None,
        site: int,
    ) -> jax.Array:
        """Returns the residual stream [B, L, D] after the block."""
        x = x_BxLxD
        normed = self.attention_norm(x)
        y = self.attention(normed, normed, biases, dropout, site)
        x = x + apply_dropout(dropout, y, site + 1)
        if self.cross_attention is not None:
            assert self.cross_attention_norm is not None
            assert enc_BxSxD is not None
            normed = self.cross_attention_norm(x)
            y = self.cross_attention(normed, enc_BxSxD, cross_biases, dropout, site + 2)
            x = x + apply_dropout(dropout, y, site + 3)
        y = self.mlp(self.mlp_norm(x), dropout, site + 4)
        return x + apply_dropout(dropout, y, site + 5)


class T5Stack(nnx.Module):
    """The encoder or the decoder. All its blocks share one table of relative position biases."""

    def __init__(self, config: T5Config, *, decoder: bool, dtype: DTypeLike, rngs: nnx.Rngs):
        n_layers = config.n_decoder_layers if decoder else config.n_layers
        self.relative_bias = normal_param(
            rngs, (config.n_buckets, config.n_heads), config.d_model**-0.5, dtype
        )
        self.blocks = nnx.List(
            [T5Block(config, decoder=decoder, dtype=dtype, rngs=rngs) for _ in range(n_layers)]
        )
        self.final_norm = RMSNorm(config.d_model, epsilon=config.epsilon, dtype=dtype)
        self.decoder = decoder
        self.n_buckets = config.n_buckets
        self.max_distance = config.max_distance
        # Sites of dropout: eight a block, and the decoder's after the encoder's.
        self.first_site = 8 * (config.n_layers + 1) if decoder else 0

    def position_bias(self, length: int) -> jax.Array:
        """Biases of the scores by relative position, float32 [1, H, L, L]."""
        n_offsets = 2 * length - 1
        buckets_O = relative_buckets(
            np.arange(n_offsets) - (length - 1),
            bidirectional=not self.decoder,
            n_buckets=self.n_buckets,
            max_distance=self.max_distance,
        )
        bias_HxO = self.relative_bias[...][buckets_O].astype(jnp.float32).T
        # Row q of the result is bias_HxO shifted by q. A row of n_offsets + 1 numbers, repeated and
        # then cut into rows of n_offsets, moves by one at each row; unlike an [L, L] gather this
        # has a gradient without a scatter.
        n_heads = bias_HxO.shape[0]
        padded = jnp.pad(bias_HxO, ((0, 0), (0, 1)))
        rows = jnp.broadcast_to(padded[:, None, :], (n_heads, length, n_offsets + 1))
        flat = rows.reshape(n_heads, length * (n_offsets + 1))[:, : length * n_offsets]
        return flat.reshape(n_heads, length, n_offsets)[None, :, :, length - 1 :]

    def __call__(
        self,
        x_BxLxD: jax.Array,
        mask_bias: jax.Array | None,
        enc_BxSxD: jax.Array | None = None,
        cross_bias: jax.Array | None = None,
        *,
        dropout: Dropout | None,
    ) -> jax.Array:
        """Hidden states [B, L, D] after the final norm; the biases are for masked keys."""
        bias = self.position_bias(x_BxLxD.shape[1])
        biases = (bias,) if mask_bias is None else (bias, mask_bias)
        cross_biases = () if cross_bias is None else (cross_bias,)
        x = apply_dropout(dropout, x_BxLxD, self.first_site)
        for i, block in enumerate(self.blocks):
            site = self.first_site + 8 * (i + 1)
            x = block(x, biases, enc_BxSxD, cross_biases, dropout, site)
        return apply_dropout(dropout, self.final_norm(x), self.first_site + 1)


class T5(nnx.Module):
    """An encoder-decoder. Parameters start as transformers' T5 does, for training from scratch."""

    def __init__(self, config: T5Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.config = config
        self.embedding = normal_param(rngs, (config.vocab_size, config.d_model), 1.0, dtype)
        self.encoder = T5Stack(config, decoder=False, dtype=dtype, rngs=rngs)
        self.decoder = T5Stack(config, decoder=True, dtype=dtype, rngs=rngs)
        # Unlike in transformers (std 1), so that the first logits are of order 1.
        std = config.d_model**-0.5
        self.head = (
            None
            if config.tied
            else Linear(config.d_model, config.vocab_size, std=std, dtype=dtype, rngs=rngs)
        )

    def embed(self, ids_BxL: jax.Array) -> jax.Array:
        """Token embeddings [B, L, D] in the dtype of the model."""
        return self.embedding[...][ids_BxL]

    def encode(
        self,
        x_BxSxD: jax.Array,
        mask_BxS: jax.Array | None = None,
        *,
        dropout: Dropout | None = None,
    ) -> jax.Array:
        """Encodes embedded inputs.

        Args:
            x_BxSxD: Embedded inputs. Relative positions are those of the sequence index, so gaps
                between real tokens count as distance.
            mask_BxS: bool, True for real tokens; None means all. Masked keys get no weight.
            dropout: Dropout, or None.

        Returns:
            Hidden states [B, S, D] after the final norm.
        """
        mask_bias = None if mask_BxS is None else padding_bias(mask_BxS)
        return self.encoder(x_BxSxD, mask_bias, dropout=dropout)

    def decode(
        self,
        x_BxTxD: jax.Array,
        enc_BxSxD: jax.Array,
        mask_BxS: jax.Array | None = None,
        *,
        dropout: Dropout | None = None,
    ) -> jax.Array:
        """Decodes embedded decoder inputs against encoded inputs.

        Args:
            x_BxTxD: Embedded decoder inputs, the start token first.
            enc_BxSxD: What `encode` returned.
            mask_BxS: The inputs' mask, as for `encode`.
            dropout: Dropout, or None.

        Returns:
            Hidden states [B, T, D] after the final norm.
        """
        return self.decoder(
            x_BxTxD,
            causal_bias(x_BxTxD.shape[1]),
            enc_BxSxD,
            None if mask_BxS is None else padding_bias(mask_BxS),
            dropout=dropout,
        )

    def unembed(self, h_BxTxD: jax.Array) -> jax.Array:
        """Logits, float32 [B, T, V], of the decoder's hidden states."""
        if self.config.scale_decoder_output:
            h_BxTxD = h_BxTxD * self.config.d_model**-0.5
        return unembed(h_BxTxD, self.embedding, self.head)
