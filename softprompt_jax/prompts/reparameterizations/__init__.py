"""Other parameterisations of a prompt: what is trained gives what the model is given.

A parameterisation is a module whose parameters are all marked `Prompt`, so that they are what is
trained. Of most kinds the prompt is `vectors`: once trained they are all that is kept, a plain
prompt with the same logits. DePT and prefixes are more than vectors: they are kept as they are, and
the model is given what they have as `served`.

Everything is float32, whatever the model's dtype. P is the number of virtual tokens, D the model's
width, H a network's hidden width, N the number of tasks.
"""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array, Float

from softprompt_jax.prompts.reparameterizations.base import Reparameterization
from softprompt_jax.prompts.reparameterizations.decomposed import DecomposedPrompt
from softprompt_jax.prompts.reparameterizations.encoders import LSTMEncoder, MLPEncoder
from softprompt_jax.prompts.reparameterizations.multitask import MultitaskPrompt
from softprompt_jax.prompts.reparameterizations.prefix import (
    EncoderDecoderPrefix,
    LayerPrefix,
    start_prefix,
)
from softprompt_jax.prompts.reparameterizations.residual import HIDDEN, ResidualMLP

__all__ = [
    "DecomposedPrompt",
    "EncoderDecoderPrefix",
    "LSTMEncoder",
    "LayerPrefix",
    "MLPEncoder",
    "MultitaskPrompt",
    "Reparameterization",
    "ResidualMLP",
    "reparameterize",
]


def reparameterize(
    kind: str,
    vectors: Float[Array, "P D"],
    key: jax.Array,
    *,
    hidden: int | None = None,
    layer_norm: bool = True,
    separate: bool = False,
    tasks: int = 1,
    positions: int = 256,
    rank: int = 30,
    model: Any = None,
) -> Float[Array, "P D"] | Reparameterization:
    """What `PromptedModel` is to train.

    Args:
        kind: `plain` for the vectors themselves, `residual_mlp`, `mlp`, `lstm`, `multitask`, `dept`
            or `prefix`.
        vectors: how the prompt, or what its network is given, starts.
        key: of the network's start.
        hidden: width of the network; None: 800 for the residual MLP, D for P-tuning's encoders.
        layer_norm: of the residual MLP.
        separate: of the residual MLP.
        tasks: of the multitask prompt.
        positions: of DePT's offsets.
        rank: likewise.
        model: the module whose layers a prefix is for.

    Raises:
        KeyError: an unknown kind.
    """
    width = vectors.shape[1]
    kinds: dict[str, Callable[[], Float[Array, "P D"] | Reparameterization]] = {
        "plain": lambda: vectors,
        "residual_mlp": lambda: ResidualMLP(
            vectors, hidden or HIDDEN, layer_norm=layer_norm, separate=separate, key=key
        ),
        "mlp": lambda: MLPEncoder(vectors, hidden or width, key=key),
        "lstm": lambda: LSTMEncoder(vectors, hidden or width, key=key),
        "multitask": lambda: MultitaskPrompt(vectors, tasks),
        "dept": lambda: DecomposedPrompt.start(vectors, positions, rank, key),
        "prefix": lambda: start_prefix(model, vectors),
    }
    return kinds[kind]()
