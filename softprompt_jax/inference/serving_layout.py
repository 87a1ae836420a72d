"""How a model that answers is spread over the devices of this machine."""

import jax
import jax.numpy as jnp

from softprompt_jax.config import ParallelOptions
from softprompt_jax.errors import UserError
from softprompt_jax.models.families import ModelConfig, parameter_count
from softprompt_jax.training.parallel import Layout, choose_layout


def serving_layout(options: ParallelOptions, config: ModelConfig, dtype: str) -> Layout:
    """The layout that options ask for; "auto" is a mesh where the weights are too large for one.

    Args:
        options: `devices`, `layout` and the axes of a mesh.
        config: of the model.
        dtype: of its weights, "float32" or "bfloat16".

    Raises:
        UserError: as `choose_layout`.
    """
    here = jax.local_devices()
    if options.devices is not None and not 1 <= options.devices <= len(here):
        raise UserError(f"devices is {options.devices}, but this machine has {len(here)}.")
    return choose_layout(
        options,
        # Batches are filled up to a multiple of the devices.
        batch_size=len(here) if options.devices is None else options.devices,
        weight_bytes=parameter_count(config) * jnp.dtype(dtype).itemsize,
        devices=here,
    )
