"""Prompts that are more than vectors, as things of their own: parameters, a card, and a folder."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from softprompt_jax.errors import UserError
from softprompt_jax.prompts.prompted_model import AnyPrompt
from softprompt_jax.prompts.reparameterizations import (
    DecomposedPrompt,
    EncoderDecoderPrefix,
    LayerPrefix,
)
from softprompt_jax.prompts.soft_prompt import SoftPrompt, read_folder, write_folder

Unfolded = DecomposedPrompt | LayerPrefix | EncoderDecoderPrefix


@dataclass(frozen=True)
class UnfoldedPrompt:
    """A trained DePT prompt or prefix.

    Attributes:
        module: with the parameters, float32.
        card: as that of a `SoftPrompt`.
    """

    module: Unfolded
    card: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """As `--prompt.parameterization` has it."""
        return self.module.kind

    @property
    def length(self) -> int:
        """Number of virtual tokens."""
        return self.module.length

    @property
    def served(self) -> AnyPrompt:
        """What a model is given."""
        return self.module.served

    @property
    def tensors(self) -> dict[str, np.ndarray]:
        """The parameters by dotted path."""
        state = nnx.to_flat_state(nnx.state(self.module))
        return {".".join(map(str, path)): np.asarray(leaf[...]) for path, leaf in state}

    def save(self, folder: str | Path) -> None:
        """Writes `prompt.safetensors` (a tensor for each parameter) and `prompt.json` (the card).

        A prompt that the folder held before, of either kind, is replaced whole. The names of the
        tensors tell which kind it is: a `SoftPrompt` has one alone, `vectors`.

        Raises:
            UserError: there is something else in the folder, which would be lost.
        """
        card = {**self.card, "kind": self.kind, "length": self.length}
        write_folder(Path(folder), self.tensors, card)

    def check_fits(self, config: Any, model_name: str) -> None:
        """Refuses a model of another shape.

        Raises:
            UserError: names both models.
        """
        if not self.module.fits(config):
            raise UserError(
                f"The {self.kind} prompt was made for {self.card.get('model', 'another model')}, "
                f"whose shape is not that of {model_name}; use the model that it was trained for."
            )


AnyTrainedPrompt = SoftPrompt | UnfoldedPrompt


def load_prompt(folder: str | Path) -> AnyTrainedPrompt:
    """Reads a prompt folder of either kind.

    Raises:
        UserError: the folder holds no prompt, or a damaged one.
    """
    folder = Path(folder)
    tensors, card = read_folder(folder)
    build = _BUILDERS.get(frozenset(tensors))
    if build is None:
        return SoftPrompt.load(folder)
    module = build({name: jnp.asarray(tensor) for name, tensor in tensors.items()})
    if module is None:
        raise UserError(f"The tensors in {folder} do not belong together; save the prompt anew.")
    return UnfoldedPrompt(module, card)


Tensors = Mapping[str, Any]


def _decomposed(tensors: Tensors) -> DecomposedPrompt | None:
    table, a, b = (tensors[name] for name in ("table", "offset_a", "offset_b"))
    if not table.ndim == a.ndim == b.ndim == 2 or (a.shape[1], table.shape[1]) != b.shape:
        return None
    return DecomposedPrompt(table, a, b)


def _prefix(tensors: Tensors, start: str = "") -> LayerPrefix | None:
    keys, values = tensors[start + "keys"], tensors[start + "values"]
    return LayerPrefix(keys, values) if keys.ndim == 4 and keys.shape == values.shape else None


def _pair(tensors: Tensors) -> EncoderDecoderPrefix | None:
    decoder = _prefix(tensors, "decoder.")
    encoder = _prefix(tensors, "encoder.") if "encoder.keys" in tensors else None
    if decoder is None or (encoder is None) == ("encoder.keys" in tensors):
        return None
    if encoder is not None and encoder.length != decoder.length:
        return None
    return EncoderDecoderPrefix(decoder, encoder)


_DECODER = frozenset({"decoder.keys", "decoder.values"})
_BUILDERS: dict[frozenset[str], Callable[[Tensors], Unfolded | None]] = {
    frozenset({"table", "offset_a", "offset_b"}): _decomposed,
    frozenset({"keys", "values"}): _prefix,
    _DECODER: _pair,
    _DECODER | {"encoder.keys", "encoder.values"}: _pair,
}
"""From the names of a file's tensors to what they make; None where they do not fit together."""
