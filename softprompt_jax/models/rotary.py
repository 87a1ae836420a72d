"""Rotary position embeddings and the two ways of stretching them to longer contexts."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from softprompt_jax.errors import UserError
from softprompt_jax.models.attention import gather_queries


@dataclass(frozen=True)
class Rotary:
    """Rotary position embeddings.

    Attributes:
        theta: base of the wavelengths.
        kind: "default"; "linear" (all frequencies divided by `factor`); or "llama3" (only the
            slow frequencies, with a smooth passage between).
        factor: by how much the context is stretched.
        low_freq_factor: llama3: slower than this many turns in the original context is "slow".
        high_freq_factor: llama3: faster than this many turns in the original context is "fast".
        original_positions: llama3: length of the original context, in tokens.

    References:
        Su et al. 2021, "RoFormer", section 3.2; `_compute_llama3_parameters` in transformers.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_positions: int = 8192

    @classmethod
    def from_hf(cls, raw: Mapping[str, Any]) -> "Rotary":
        """Reads `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before).

        Raises:
            UserError: a kind of scaling that is not supported, or one of its numbers missing.
        """
        settings = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
        if not isinstance(settings, Mapping):
            raise UserError(
                f"The model's config.json has {settings!r} for its rotary settings, which must be "
                "named values: mend it, or fetch the file anew."
            )
        settings = dict(settings)
        kind = settings.get("rope_type", settings.get("type", "default"))
        if any(isinstance(value, Mapping) for value in settings.values()):
            raise UserError(
                "The model's config.json has rotary settings for each layer type "
                f"({', '.join(settings)}), which are not supported: choose another model."
            )
        if kind not in ("default", "linear", "llama3"):
            raise UserError(
                f"The model's rotary embeddings are of type {kind!r}, which is not supported: "
                "choose a model with default, linear or llama3."
            )
        partial = settings.get("partial_rotary_factor", raw.get("partial_rotary_factor", 1.0))
        if partial not in (None, 1, 1.0):
            raise UserError(
                f"The model rotates only a part of each head (partial_rotary_factor {partial}), "
                "which is not supported: choose another model."
            )
        theta = float(settings.get("rope_theta") or raw.get("rope_theta") or 10_000.0)
        if kind == "default":
            return cls(theta)
        needed = ["factor"]
        if kind == "llama3":
            needed += ["low_freq_factor", "high_freq_factor"]
            settings.setdefault(
                "original_max_position_embeddings", raw.get("max_position_embeddings")
            )
            needed.append("original_max_position_embeddings")
        if missing := [name for name in needed if settings.get(name) is None]:
            raise UserError(
                f"The model's config.json has {kind} rotary scaling without {', '.join(missing)}: "
                "add it."
            )
        if kind == "linear":
            return cls(theta, kind, float(settings["factor"]))
        return cls(
            theta,
            kind,
            float(settings["factor"]),
            float(settings["low_freq_factor"]),
            float(settings["high_freq_factor"]),
            int(settings["original_max_position_embeddings"]),
        )

    def frequencies(self, head_width: int) -> np.ndarray:
        """Radians per position of each pair of dimensions, float32 [head_width / 2]."""
        exponents = np.arange(0, head_width, 2, dtype=np.float32) / head_width
        frequencies = 1.0 / np.float32(self.theta) ** exponents
        if self.kind == "linear":
            frequencies = frequencies / self.factor
        if self.kind == "llama3":
            turns = self.original_positions * frequencies / (2 * math.pi)
            fast = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
            fast = np.clip(fast, 0.0, 1.0)
            frequencies = (1 - fast) * frequencies / self.factor + fast * frequencies
        return frequencies.astype(np.float32)


def rotary_tables(
    rotary: Rotary, positions_BxL: jax.Array, head_width: int
) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines, float32 [B, 1, L, K/2]; computed once and shared by all layers."""
    frequencies_1x1xK = jnp.asarray(rotary.frequencies(head_width))[None, None, :]
    angles = positions_BxL[:, :, None].astype(jnp.float32) * frequencies_1x1xK
    return jnp.cos(angles)[:, None], jnp.sin(angles)[:, None]


def gather_tables(
    tables: tuple[jax.Array, jax.Array], at_BxT: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """The tables [B, 1, T, K/2] of some positions, from those [B or 1, 1, L, K/2] of all."""
    if at_BxT is None:
        return tables
    cos, sin = gather_queries(tables, at_BxT)
    return cos, sin


def rotate(x_BxHxLxK: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Turns the pairs (x[i], x[i + K/2]) by their angles; float32 inside, dtype of x outside."""
    cos, sin = tables
    first, second = jnp.split(x_BxHxLxK.astype(jnp.float32), 2, axis=-1)
    turned = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return turned.astype(x_BxHxLxK.dtype)
