"""T5 and its kin: T5 1.0, T5 1.1, LM-adapted T5, Flan-T5, mT5 and ByT5.

References:
    Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer", section 2.1. Version 1.1 (gated feed-forward layers, a head of its own) is
    described in google-research/text-to-text-transfer-transformer, released_checkpoints.md.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from softprompt_jax.models.attention import (
    KeysValues,
    Method,
    attend,
    causal_bias,
    join_keys_values,
    padding_bias,
    split_heads,
    visible_bias,
)
from softprompt_jax.models.blocks import Remat, each_block, keep_residual, run_blocks
from softprompt_jax.models.layers import (
    MLP,
    Dropout,
    Linear,
    RMSNorm,
    apply_dropout,
    normal_param,
    unembed,
)
from softprompt_jax.models.relative_positions import every_offset_bias, relative_buckets
from softprompt_jax.models.t5_config import T5Config


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
        self.method: Method = "plain"

    def keys_values(self, x_BxSxD: jax.Array) -> KeysValues:
        """Keys and values [B, H, S, K] of hidden states."""
        return KeysValues(
            split_heads(self.k(x_BxSxD), self.n_heads), split_heads(self.v(x_BxSxD), self.n_heads)
        )

    def __call__(
        self,
        x_BxLxD: jax.Array,
        seen: KeysValues,
        biases: tuple[jax.Array, ...],
        dropout: Dropout | None,
        site: int | jax.Array,
    ) -> jax.Array:
        """Attends from [B, L, D] to keys and values, with the biases of `attend`."""
        q = split_heads(self.q(x_BxLxD), self.n_heads)
        mixed = attend(q, *seen, biases, dropout=dropout, site=site, method=self.method)
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
        cross: KeysValues | None,
        cross_biases: tuple[jax.Array, ...],
        dropout: Dropout | None,
        site: int | jax.Array,
        earlier: KeysValues | None,
        column: jax.Array | None,
    ) -> tuple[jax.Array, KeysValues]:
        """Returns the residual stream [B, L, D] after the block, and the keys and values seen."""
        x = x_BxLxD
        normed = self.attention_norm(x)
        seen = join_keys_values(earlier, self.attention.keys_values(normed), column)
        y = self.attention(normed, seen, biases, dropout, site)
        x = keep_residual(x + apply_dropout(dropout, y, site + 1))
        if self.cross_attention is not None:
            assert self.cross_attention_norm is not None
            assert cross is not None
            normed = self.cross_attention_norm(x)
            y = self.cross_attention(normed, cross, cross_biases, dropout, site + 2)
            x = keep_residual(x + apply_dropout(dropout, y, site + 3))
        y = self.mlp(self.mlp_norm(x), dropout, site + 4)
        return x + apply_dropout(dropout, y, site + 5), seen


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
        self.remat: Remat = "none"
        # Sites of dropout: eight a block, and the decoder's after the encoder's.
        self.first_site = 8 * (config.n_layers + 1) if decoder else 0

    def position_bias(self, length: int, before: int = 0) -> jax.Array:
        """Biases of the scores of L positions with M before them and themselves.

        Returns:
            float32 [1, H, L, M+L].
        """
        whole = before + length
        buckets_O = self._buckets(np.arange(1 - whole, whole))
        bias_OxH = self.relative_bias[...][buckets_O].astype(jnp.float32)
        bias = every_offset_bias(bias_OxH, whole)
        return bias[:, :, before:] if before else bias

    def position_bias_between(self, positions_L: ArrayLike, positions_S: ArrayLike) -> jax.Array:
        """Biases [1, H, L, S] by position, in a decoder; of no meaning where the key is later.

        Positions must be smaller than S.
        """
        positions_L, positions_S = jnp.asarray(positions_L), jnp.asarray(positions_S)
        bias_DxH = self.relative_bias[...][self._buckets(-np.arange(positions_S.shape[0]))]
        distance_LxS = jnp.maximum(positions_L[:, None] - positions_S[None, :], 0)
        return bias_DxH[distance_LxS].astype(jnp.float32).transpose(2, 0, 1)[None]

    def _buckets(self, offsets: np.ndarray) -> np.ndarray:
        return relative_buckets(
            offsets,
            bidirectional=not self.decoder,
            n_buckets=self.n_buckets,
            max_distance=self.max_distance,
        )

    def __call__(
        self,
        x_BxLxD: jax.Array,
        biases: tuple[jax.Array, ...],
        enc_BxSxD: jax.Array | None = None,
        cross_biases: tuple[jax.Array, ...] = (),
        *,
        earlier: Sequence[KeysValues] | None = None,
        dropout: Dropout | None,
    ) -> jax.Array:
        """Hidden states [B, L, D] after the final norm.

        Args:
            x_BxLxD: embedded tokens.
            biases: of self-attention.
            enc_BxSxD: encoded inputs, in a decoder.
            cross_biases: of cross-attention.
            earlier: each layer's keys and values of self-attention that are there already; the
                layers must not be stacked then.
            dropout: dropout, or None.
        """

        def run(block: T5Block, x: jax.Array, number: int | jax.Array) -> jax.Array:
            cross = None
            if enc_BxSxD is not None:
                assert block.cross_attention is not None
                cross = block.cross_attention.keys_values(enc_BxSxD)
            site = self.first_site + 8 * (number + 1)
            before = None if earlier is None else earlier[int(number)]
            return block(x, biases, cross, cross_biases, dropout, site, before, None)[0]

        x = apply_dropout(dropout, x_BxLxD, self.first_site)
        x = run_blocks(self.blocks, run, x, self.remat)
        return apply_dropout(dropout, self.final_norm(x), self.first_site + 1)

    def extend(
        self,
        x_BxLxD: jax.Array,
        biases: tuple[jax.Array, ...],
        cross: Sequence[KeysValues | None],
        cross_biases: tuple[jax.Array, ...],
        earlier: Sequence[KeysValues | None],
        column: jax.Array | None,
    ) -> tuple[jax.Array, list[KeysValues]]:
        """As `__call__` for tokens after earlier ones, with each layer's keys and values.

        Args:
            x_BxLxD: embedded tokens.
            biases: of self-attention.
            cross: each layer's keys and values of cross-attention.
            cross_biases: of cross-attention.
            earlier: each layer's keys and values of self-attention that are there already.
            column: as for `join_keys_values`.

        Returns:
            Hidden states [B, L, D] after the final norm, and the keys and values seen.
        """
        x, kept = x_BxLxD, []
        for block, own, before in zip(each_block(self.blocks), cross, earlier, strict=True):
            x, seen = block(x, biases, own, cross_biases, None, 0, before, column)
            kept.append(seen)
        return self.final_norm(x), kept


def _length(past: Sequence[KeysValues] | None) -> int:
    """How many positions stand before others."""
    return 0 if past is None else past[0].keys.shape[2]


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
        past: Sequence[KeysValues] | None = None,
        dropout: Dropout | None = None,
    ) -> jax.Array:
        """Encodes embedded inputs.

        Args:
            x_BxSxD: embedded inputs. Relative positions are those of the sequence index, so gaps
                between real tokens count as distance.
            mask_BxS: bool, True for real tokens; None means all. Masked keys get no weight.
            past: each layer's keys and values [1, H, P, K] that stand before every row's inputs.
            dropout: dropout, or None.

        Returns:
            Hidden states [B, S, D] after the final norm.
        """
        before = _length(past)
        biases = (self.encoder.position_bias(x_BxSxD.shape[1], before),)
        if mask_BxS is not None:
            if before:
                mask_BxS = jnp.pad(mask_BxS, ((0, 0), (before, 0)), constant_values=True)
            biases = (*biases, padding_bias(mask_BxS))
        return self.encoder(x_BxSxD, biases, earlier=past, dropout=dropout)

    def prefix(self, prompt_PxD: jax.Array) -> tuple[list[KeysValues], list[KeysValues]]:
        """What encoder and decoder would keep of virtual tokens that stand alone.

        Returns:
            Each encoder layer's keys and values [1, H, P, K], and those of each decoder layer's
            self-attention, of a decoder that reads the same virtual tokens.
        """
        x_1xPxD, length = prompt_PxD[None], prompt_PxD.shape[0]
        none = [None] * self.config.n_layers
        biases = (self.encoder.position_bias(length),)
        encoded, of_encoder = self.encoder.extend(x_1xPxD, biases, none, (), none, None)
        none = [None] * self.config.n_decoder_layers
        biases = (self.decoder.position_bias(length), causal_bias(length))
        cross = self.cross(encoded)
        _, of_decoder = self.decoder.extend(x_1xPxD, biases, cross, (), none, None)
        return of_encoder, of_decoder

    def cross(self, enc_BxSxD: jax.Array) -> list[KeysValues]:
        """Each decoder layer's keys and values [B, H, S, K] of encoded inputs."""
        layers = []
        for block in each_block(self.decoder.blocks):
            assert block.cross_attention is not None
            layers.append(block.cross_attention.keys_values(enc_BxSxD))
        return layers

    def decode(
        self,
        x_BxTxD: jax.Array,
        enc_BxSxD: jax.Array,
        mask_BxS: jax.Array | None = None,
        *,
        positions_T: np.ndarray | None = None,
        visible_TxT: np.ndarray | None = None,
        past: Sequence[KeysValues] | None = None,
        dropout: Dropout | None = None,
    ) -> jax.Array:
        """Decodes embedded decoder inputs against encoded inputs.

        Args:
            x_BxTxD: embedded decoder inputs, the start token first.
            enc_BxSxD: what `encode` returned.
            mask_BxS: the inputs' mask, as for `encode`.
            positions_T: int, the decoder inputs' positions, smaller than T; None: 0 to T-1.
            visible_TxT: bool, which decoder inputs each of them sees; None: itself and the earlier
                ones.
            past: each layer's keys and values of self-attention [1, H, P, K] that stand before
                every row's decoder inputs, which all see them.
            dropout: dropout, or None.

        Returns:
            Hidden states [B, T, D] after the final norm.
        """
        length, before = x_BxTxD.shape[1], _length(past)
        if positions_T is None:
            position_bias = self.decoder.position_bias(length, before)
        else:
            positions_S = np.concatenate([np.arange(before, dtype=np.int32), before + positions_T])
            position_bias = self.decoder.position_bias_between(before + positions_T, positions_S)
        if visible_TxT is None:
            visible = causal_bias(length, before)
        else:
            visible_TxS = np.pad(visible_TxT, ((0, 0), (before, 0)), constant_values=True)
            visible = visible_bias(jnp.asarray(visible_TxS)[None])
        cross_biases = () if mask_BxS is None else (padding_bias(mask_BxS),)
        biases = (position_bias, visible)
        return self.decoder(x_BxTxD, biases, enc_BxSxD, cross_biases, earlier=past, dropout=dropout)

    def extend(
        self,
        x_BxLxD: jax.Array,
        layers: Sequence[KeysValues],
        column: jax.Array,
        cross: Sequence[KeysValues],
        mask_BxS: jax.Array,
        *,
        positions_L: jax.Array,
        positions_R: jax.Array,
        visible_BxLxR: jax.Array,
    ) -> tuple[jax.Array, list[KeysValues]]:
        """One step of decoding: a few tokens a row, after all that is in the cache.

        Args:
            x_BxLxD: the embedded tokens.
            layers: the cache: each layer's keys and values of self-attention in R columns,
                [B, H, R, K].
            column: int32 scalar: these tokens' keys and values go to L columns from this one on.
            cross: what `cross` returned.
            mask_BxS: the inputs' mask.
            positions_L: the tokens' positions, int32, the same in every row.
            positions_R: the columns' positions.
            visible_BxLxR: bool, which columns each token sees.

        Returns:
            Hidden states [B, L, D] after the final norm, and the cache with these tokens.
        """
        position_bias = self.decoder.position_bias_between(positions_L, positions_R)
        biases = (position_bias, visible_bias(visible_BxLxR))
        cross_biases = (padding_bias(mask_BxS),)
        return self.decoder.extend(x_BxLxD, biases, cross, cross_biases, layers, column)

    def unembed(self, h_BxTxD: jax.Array) -> jax.Array:
        """Logits, float32 [B, T, V], of the decoder's hidden states."""
        if self.config.scale_decoder_output:
            h_BxTxD = h_BxTxD * self.config.d_model**-0.5
        return unembed(h_BxTxD, self.embedding, self.head)
