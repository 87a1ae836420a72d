"""Llama and its kin: Llama 2 and 3, SmolLM, Mistral, Qwen2 and Qwen3.

References:
    Touvron et al. 2023, "LLaMA", section 2.2; Ainslie et al. 2023, "GQA"; Jiang et al. 2023,
    "Mistral 7B", section 2 (sliding window); Yang et al. 2025, "Qwen3", section 2 (norms of queries
    and keys).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import jax
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
    Linear,
    RMSNorm,
    check_activation,
    normal_param,
)
from softprompt_jax.models.raw_config import check_model_type, epsilon, padding_id, size, token_ids
from softprompt_jax.models.rotary import Rotary, gather_tables, rotary_tables, rotate

_INITIAL_STD = 0.02


@dataclass(frozen=True)
class LlamaConfig:
    """Shape of a model of the Llama family.

    Attributes:
        vocab_size: number of rows of the embedding.
        d_model: width of the model.
        n_layers: blocks.
        n_heads: heads of queries.
        n_kv_heads: heads of keys and values; divides n_heads.
        head_width: width of a head; n_heads * head_width need not be d_model.
        d_ff: width of the feed-forward layers.
        rotary: position embeddings.
        activation: name in `layers.ACTIVATIONS`.
        epsilon: added to the mean square in the norms.
        qkv_bias: whether the projections to queries, keys and values have biases.
        o_bias: whether the projection back has one.
        mlp_bias: whether the feed-forward layers have biases.
        qk_norm: whether each head's queries and keys are normalised (Qwen3).
        windows: for each layer how many positions back it sees, itself included; None: all.
        tied: whether the output head is the embedding.
        pad_id: padding token; any does, since padding is masked, and cut off from answers.
        eos_ids: tokens that end a text.
        max_positions: None: rotary embeddings have no hard limit.
    """

    family: ClassVar[str] = "llama"
    is_encoder_decoder: ClassVar[bool] = False

    vocab_size: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    head_width: int
    d_ff: int
    rotary: Rotary
    windows: tuple[int | None, ...]
    activation: str = "silu"
    epsilon: float = 1e-6
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    tied: bool = False
    pad_id: int = 0
    eos_ids: tuple[int, ...] = (2,)
    max_positions: int | None = None

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "LlamaConfig":
        """Reads a parsed config.json of model type llama, mistral, qwen2 or qwen3.

        Raises:
            UserError: another model type, quantised weights, an unknown activation function or
                kind of rotary scaling or of layer, heads that do not fit, or a missing size.
        """
        model_type = check_model_type(raw, ("llama", "mistral", "qwen2", "qwen3"))
        vocab_size, width = size(raw, "vocab_size"), size(raw, "hidden_size")
        n_heads = size(raw, "num_attention_heads")
        # Llama's first configs have no such key; elsewhere null stands for as many as queries.
        n_kv_heads = size(raw, "num_key_value_heads", n_heads)
        if n_heads % n_kv_heads:
            raise UserError(
                f"The model's num_attention_heads ({n_heads}) is not a multiple of its "
                f"num_key_value_heads ({n_kv_heads}): mend its config.json."
            )
        head_width = size(raw, "head_dim", 128 if model_type == "qwen3" else width // n_heads)
        # As in transformers, Mistral and Qwen2 pass over this key.
        any_bias = model_type in ("llama", "qwen3") and bool(raw.get("attention_bias", False))
        eos_ids = token_ids(raw.get("eos_token_id", None if model_type.startswith("qwen") else 2))
        return cls(
            vocab_size=vocab_size,
            d_model=width,
            n_layers=size(raw, "num_hidden_layers"),
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            head_width=head_width,
            d_ff=size(raw, "intermediate_size"),
            rotary=Rotary.from_hf(raw),
            windows=_windows(raw, model_type),
            activation=check_activation(raw.get("hidden_act", "silu")),
            epsilon=epsilon(raw, "rms_norm_eps", 1e-6),
            qkv_bias=any_bias or model_type == "qwen2",
            o_bias=any_bias,
            mlp_bias=model_type == "llama" and bool(raw.get("mlp_bias", False)),
            qk_norm=model_type == "qwen3",
            tied=raw.get("tie_word_embeddings", False),
            pad_id=padding_id(raw, vocab_size, eos_ids),
            eos_ids=eos_ids,
        )


def _windows(raw: Mapping[str, Any], model_type: str) -> tuple[int | None, ...]:
    """The sliding window of each layer, in positions."""
    n_layers = size(raw, "num_hidden_layers")
    if model_type == "llama":
        return (None,) * n_layers
    if model_type == "mistral":
        return (raw.get("sliding_window", 4096),) * n_layers
    window = raw.get("sliding_window", 4096) if raw.get("use_sliding_window", False) else None
    layer_types = raw.get("layer_types")
    if layer_types is None:
        first = raw.get("max_window_layers", 28)
        return tuple(window if i >= first else None for i in range(n_layers))
    unknown = sorted(set(layer_types) - {"full_attention", "sliding_attention"})
    if unknown or len(layer_types) != n_layers:
        raise UserError(
            f"The model's layer_types ({len(layer_types)} entries, {n_layers} layers; unknown: "
            f"{', '.join(unknown) or 'none'}) are not supported: choose another model."
        )
    return tuple(window if kind == "sliding_attention" else None for kind in layer_types)


class LlamaAttention(nnx.Module):
    """Grouped-query attention with rotary positions."""

    def __init__(self, config: LlamaConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        linear = partial(Linear, std=_INITIAL_STD, dtype=dtype, rngs=rngs)
        width, inner = config.d_model, config.n_heads * config.head_width
        kv_inner = config.n_kv_heads * config.head_width
        self.q = linear(width, inner, bias=config.qkv_bias)
        self.k = linear(width, kv_inner, bias=config.qkv_bias)
        self.v = linear(width, kv_inner, bias=config.qkv_bias)
        self.o = linear(inner, width, bias=config.o_bias)
        norm = partial(RMSNorm, config.head_width, epsilon=config.epsilon, dtype=dtype)
        self.q_norm = norm() if config.qk_norm else None
        self.k_norm = norm() if config.qk_norm else None
        self.config = config
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
        """As `CausalBlock` calls it; `tables` are the rotary ones."""
        assert tables is not None
        config = self.config
        q = split_heads(self.q(gather_positions(x_BxLxD, at_BxT)), config.n_heads)
        k = split_heads(self.k(x_BxLxD), config.n_kv_heads)
        v = split_heads(self.v(x_BxLxD), config.n_kv_heads)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = rotate(q, gather_tables(tables, at_BxT)), rotate(k, tables)
        seen = join_keys_values(earlier, KeysValues(k, v), column)
        mixed = attend(
            q,
            *seen,
            biases,
            scale=config.head_width**-0.5,
            dropout=dropout,
            site=site,
            method=self.method,
        )
        return self.o(mixed), seen


class Llama(CausalModel):
    """A causal language model. Parameters start normal with a standard deviation of 0.02."""

    def __init__(self, config: LlamaConfig, *, dtype: DTypeLike, rngs: nnx.Rngs):
        self.config = config
        self.windows = config.windows
        shape = (config.vocab_size, config.d_model)
        self.embedding = normal_param(rngs, shape, _INITIAL_STD, dtype)
        norm = partial(RMSNorm, config.d_model, epsilon=config.epsilon, dtype=dtype)
        mlp = partial(
            MLP,
            config.d_model,
            config.d_ff,
            activation=config.activation,
            gated=True,
            std_in=_INITIAL_STD,
            std_out=_INITIAL_STD,
            bias=config.mlp_bias,
            dtype=dtype,
            rngs=rngs,
        )
        self.blocks = nnx.List(
            [
                CausalBlock(
                    norm(),
                    LlamaAttention(config, dtype=dtype, rngs=rngs),
                    norm(),
                    mlp(),
                    residual_dropout=False,
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
        """The embeddings as they are, and the rotary tables."""
        return x_BxLxD, rotary_tables(self.config.rotary, positions_BxL, self.config.head_width)
