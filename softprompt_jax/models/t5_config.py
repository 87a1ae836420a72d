"""The shape of a T5, and how it is read from a config.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from softprompt_jax.errors import UserError
from softprompt_jax.models.layers import check_activation
from softprompt_jax.models.raw_config import check_model_type, epsilon, size, token_ids


@dataclass(frozen=True)
class T5Config:
    """Shape of a T5.

    Attributes:
        vocab_size: number of rows of the embedding.
        d_model: width of the model.
        n_layers: encoder blocks.
        n_decoder_layers: decoder blocks (ByT5 has fewer of them).
        n_heads: attention heads.
        head_width: width of a head; n_heads * head_width need not be d_model.
        d_ff: width of the feed-forward layers.
        activation: name in `layers.ACTIVATIONS`.
        gated: whether the feed-forward layers are gated.
        n_buckets: buckets of relative positions.
        max_distance: distance in tokens from which on all share one bucket.
        epsilon: added to the mean square in the norms.
        tied: whether the output head is the embedding.
        scale_decoder_output: whether the head's input is multiplied by d_model**-0.5.
        pad_id: padding token.
        decoder_start_id: first decoder input.
        eos_ids: tokens that end a target.
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
    max_positions: int | None = None

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "T5Config":
        """Reads a parsed config.json of model type t5 or mt5.

        `tied` is what the file says; only the weights tell for sure (transformers 5 writes true
        for every T5).

        Raises:
            UserError: another model type, quantised weights, an unknown activation function or a
                missing size.
        """
        model_type = check_model_type(raw, ("t5", "mt5"))
        projection = raw.get("feed_forward_proj", "relu" if model_type == "t5" else "gated-gelu")
        gate, _, activation = str(projection).rpartition("-")
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
            vocab_size=size(raw, "vocab_size"),
            d_model=size(raw, "d_model"),
            n_layers=size(raw, "num_layers"),
            n_decoder_layers=size(raw, "num_decoder_layers", size(raw, "num_layers")),
            n_heads=size(raw, "num_heads"),
            head_width=size(raw, "d_kv"),
            d_ff=size(raw, "d_ff"),
            # The original code's gated "gelu" is the tanh approximation.
            activation=check_activation("gelu_new" if projection == "gated-gelu" else activation),
            gated=gate == "gated",
            n_buckets=size(raw, "relative_attention_num_buckets", 32),
            max_distance=size(raw, "relative_attention_max_distance", 128),
            epsilon=epsilon(raw, "layer_norm_epsilon", 1e-6),
            tied=tied,
            scale_decoder_output=scale,
            pad_id=pad_id,
            decoder_start_id=pad_id if start_id is None else start_id,
            eos_ids=token_ids(raw.get("eos_token_id", 1)),
        )
