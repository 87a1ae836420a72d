"""GPT-2.

References:
    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from softprompt_jax.errors import UserError
from softprompt_jax.models.attention import (
    KeysValues,
    Method,
    attend,
    gather_positions,
    join_keys_values,
    split_heads,
)
from softprompt_jax.models.causal import CausalBlock, CausalModel, Tables
from softprompt_jax.models.layers import (
    MLP,
    Dropout,
    LayerNorm,
    Linear,
    apply_dropout,
    check_activation,
    normal_param,
)
from softprompt_jax.models.raw_config import check_model_type, epsilon, padding_id, size, token_ids

_INITIAL_STD = 0.02


@dataclass(frozen=True)
class GPT2Config:
    """Shape of a GPT-2.

    Attributes:
        vocab_size: number of rows of the embedding.
        d_model: width of the model.
        n_layers: blocks.
        n_heads: attention heads.
        d_ff: width of the feed-forward layers.
        max_positions: rows of the position embedding: the longest sequence, prompt included.
        activation: name in `layers.ACTIVATIONS`.
        epsilon: added to the variance in the norms.
        tied: whether the output head is the embedding.
        pad_id: padding token; any does, since padding is masked, and cut off from answers.
        eos_ids: tokens that end a text.
    """

    family: ClassVar[str] = "gpt2"
    is_encoder_decoder: ClassVar[bool] = False

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    max_positions: int
    activation: str = "gelu_new"
    epsilon: float = 1e-5
    tied: bool = True
    pad_id: int = 0
    eos_ids: tuple[int, ...] = (50256,)

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "GPT2Config":
        """Reads a parsed config.json of model type gpt2.

        Raises:
            UserError: another model type, quantised weights, an unknown activation function, a
                variant of attention that is not supported, or a missing size.
        """
        check_model_type(raw, ("gpt2",))
        for flag, usual in (
            ("scale_attn_weights", True),
            ("scale_attn_by_inverse_layer_idx", False),
            ("reorder_and_upcast_attn", False),
            ("add_cross_attention", False),
        ):
            if bool(raw.get(flag, usual)) != usual:
                raise UserError(
                    f"The model's config.json sets {flag} to {raw[flag]}, which is not supported: "
                    "choose another model."
                )
        vocab_size, width = size(raw, "vocab_size"), size(raw, "n_embd")
        eos_ids = token_ids(raw.get("eos_token_id", 50256))
        return cls(
            vocab_size=vocab_size,
            d_model=width,
            n_layers=size(raw, "n_layer"),
            n_heads=size(raw, "n_head"),
            d_ff=size(raw, "n_inner", 4 * width),
            max_positions=size(raw, "n_positions"),
            activation=check_activation(raw.get("activation_function", "gelu_new")),
            epsilon=epsilon(raw, "layer_norm_epsilon", 1e-5),
            tied=raw.get("tie_word_embeddings", True),
            pad_id=padding_id(raw, vocab_size, eos_ids),
            eos_ids=eos_ids,
        )


class GPT2Attention(nnx.Module):
    """Attention; one matrix projects to queries, keys and values."""

    def __init__(self, config: GPT2Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        linear = partial(Linear, std=_INITIAL_STD, bias=True, dtype=dtype, rngs=rngs)
        self.qkv = linear(config.d_model, 3 * config.d_model)
        self.o = linear(config.d_model, config.d_model)
        self.n_heads = config.n_heads
        self.method: Method = "plain"

    def __call__(
        self,
        x_BxLxD: jax.Array,
        tables: Tables,
        biases: tuple[jax.Array, ...],
        dropout: Dropout | None,
        site: int | jax.Array,
        earlier: KeysValues | None,
        column: jax.Array | None,
        at_BxT: jax.Array | None,
    ) -> tuple[jax.Array, KeysValues]:
        """As `CausalBlock` calls it; there are no tables."""
        parts = jnp.split(self.qkv(x_BxLxD), 3, axis=-1)
        parts[0] = gather_positions(parts[0], at_BxT)
        q, k, v = (split_heads(part, self.n_heads) for part in parts)
        seen = join_keys_values(earlier, KeysValues(k, v), column)
        mixed = attend(
            q,
            *seen,
            biases,
            scale=q.shape[-1] ** -0.5,
            dropout=dropout,
            site=site,
            method=self.method,
        )
        return self.o(mixed), seen


class GPT2(CausalModel):
    """A causal language model. Parameters start normal with a standard deviation of 0.02."""

    def __init__(self, config: GPT2Config, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.config = config
        self.windows = (None,) * config.n_layers
        param = partial(normal_param, rngs, std=_INITIAL_STD, dtype=dtype)
        self.embedding = param((config.vocab_size, config.d_model))
        self.position_embedding = param((config.max_positions, config.d_model))
        norm = partial(LayerNorm, config.d_model, epsilon=config.epsilon, dtype=dtype)
        mlp = partial(
            MLP,
            config.d_model,
            config.d_ff,
            activation=config.activation,
            gated=False,
            std_in=_INITIAL_STD,
            std_out=_INITIAL_STD,
            bias=True,
            dtype=dtype,
            rngs=rngs,
        )
        self.blocks = nnx.List(
            [
                CausalBlock(
                    norm(),
                    GPT2Attention(config, dtype=dtype, rngs=rngs),
                    norm(),
                    mlp(),
                    residual_dropout=True,
                )
                for _ in range(config.n_layers)
            ]
        )
        self.final_norm = norm()
        self.head = (
            None
            if config.tied
            else Linear(config.d_model, config.vocab_size, std=_INITIAL_STD, dtype=dtype, rngs=rngs)
        )

    def enter(
        self, x_BxLxD: jax.Array, positions_BxL: jax.Array, dropout: Dropout | None
    ) -> tuple[jax.Array, Tables]:
        """The sum of token and position embeddings."""
        return apply_dropout(
            dropout, x_BxLxD + self.position_embedding[...][positions_BxL], 0
        ), None
