"""A wider model that starts as a trained narrower one, so that little time goes further."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from softprompt_jax.errors import UserError
from softprompt_jax.models import LanguageModel
from softprompt_jax.models.families import config_from_hf
from softprompt_jax.models.random_weights import random_model
from softprompt_jax.models.t5_config import T5Config

# What writes to the residual stream. Its new columns are zero, so nothing is in the new dimensions
# until training puts something there; what reads them starts at random, or nothing ever would.
_WRITERS = ("embedding", "o.kernel", "down.kernel")


def grown(
    model: LanguageModel, name: str, raw_config: dict[str, Any], seed: int = 0
) -> LanguageModel:
    """A wider T5 with the logits of a trained one, to go on training.

    Old weights keep their places, the first ones. New heads and feed-forward units are read by
    nothing at first, and new dimensions of the residual stream are empty.

    Args:
        model: a T5 1.1 (gated, a head of its own).
        name: of the new model.
        raw_config: its `config.json`: as many layers and heads as wide, but wider, with more heads
            and feed-forward units.
        seed: of the new weights that are not zero.

    Returns:
        The new model, float32, with the old one's tokenizer.

    Raises:
        UserError: the shapes do not allow it.

    References:
        Chen, Goodfellow and Shlens 2016, "Net2Net: Accelerating Learning via Knowledge Transfer",
        for growth that keeps the function; here with zeros in place of copies of units.
    """
    new = config_from_hf(raw_config)
    old = model.config
    wider = random_model(
        name,
        raw_config,
        dtype="float32",
        seed=seed,
        load_tokenizer=lambda: model.tokenizer,
    )
    graphdef, params, rest = nnx.split(wider.module, nnx.Param, ...)
    leaves = dict(nnx.to_flat_state(params))
    before = dict(nnx.to_flat_state(nnx.state(model.module, nnx.Param)))
    fits = before.keys() == leaves.keys() and all(
        small[...].ndim == leaves[path][...].ndim
        and all(a <= b for a, b in zip(small[...].shape, leaves[path][...].shape, strict=True))
        for path, small in before.items()
    )
    alike = (
        isinstance(old, T5Config)
        and isinstance(new, T5Config)
        and not old.tied
        and (old.head_width, old.vocab_size) == (new.head_width, new.vocab_size)
    )
    if not (alike and fits):
        raise UserError(
            f"{model.name} cannot grow into {name}; both must be T5 1.1 with equally many layers, "
            "heads of one width and one vocabulary, the new one wider in all."
        )
    # The mean square is over more dimensions now, and the new ones are empty.
    shrink = (old.d_model / new.d_model) ** 0.5
    for path, leaf in leaves.items():
        place = ".".join(map(str, path))
        small = np.asarray(before[path][...], np.float32)
        values = np.array(leaf[...], np.float32)
        corner = tuple(slice(size) for size in small.shape)
        if place.endswith("norm.scale"):
            values[:] = shrink * small.mean()
            values[corner] = shrink * small
        else:
            if place.endswith(_WRITERS):
                values[:] = 0.0
            values[corner] = small
        leaves[path] = leaf.replace(jnp.asarray(values))
    wider.module = nnx.merge(graphdef, nnx.from_flat_state(list(leaves.items())), rest)
    return wider
