"""Spreading one pure step over the local devices with `jax.pmap`."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from softprompt_jax.errors import UserError

AXIS = "devices"

Device = Any  # jax.Device is a variable to type checkers, not a type


def local_devices(count: int | None, batch_size: int, accumulation: int = 1) -> list[Device]:
    """The devices of a run.

    Args:
        count: how many; None: all local ones.
        batch_size: rows a step, which the devices and micro-batches must share evenly.
        accumulation: micro-batches a step.

    Raises:
        UserError: there are fewer devices, or they cannot share the batch.
    """
    devices = jax.local_devices()
    count = len(devices) if count is None else count
    if count > len(devices):
        raise UserError(
            f"--parallel.devices is {count}, but this machine has {len(devices)}; ask for fewer."
        )
    if batch_size % (count * accumulation):
        parts = f"{count} device{'s' if count > 1 else ''}"
        if accumulation > 1:
            parts += f" with {accumulation} micro-batches each"
        raise UserError(
            f"A batch of {batch_size} cannot be shared by {parts}; make --train.batch_size a "
            f"multiple of {count * accumulation} or set --parallel.devices."
        )
    return devices[:count]


def pmap_step(step: Callable[..., Any], devices: Sequence[Device]) -> Callable[..., Any]:
    """Maps `step(state, frozen, batch)` over the batch's leading device axis.

    State and frozen weights are replicated and keep their shapes (`in_axes=(None, None, 0)`), so
    nothing is stacked and a checkpoint is the same whatever the number of devices. The old state
    is donated.
    """
    return jax.pmap(
        step,
        axis_name=AXIS,
        in_axes=(None, None, 0),
        out_axes=None,
        donate_argnums=(0,),
        devices=list(devices),
    )


def pmap_rows(function: Callable[..., Any], devices: Sequence[Device]) -> Callable[..., Any]:
    """Maps `function(state, frozen, rows, shared)` over rows, without communication.

    What comes out has a leading device axis, as the rows have; `shared` is the same for all.
    """
    axes = (None, None, 0, None)
    return jax.pmap(function, axis_name=AXIS, in_axes=axes, devices=list(devices))


def replicate(tree: Any, devices: Sequence[Device]) -> Any:
    """Places every leaf once on each device, where the mapped functions expect it."""
    mesh = Mesh(np.asarray(devices), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_rows(batch: Mapping[str, np.ndarray], devices: int) -> dict[str, np.ndarray]:
    """Cuts the rows into one equal share a device: `[rows, ...]` to `[devices, rows/devices, ...]`.

    Row r of share d is row `d * rows/devices + r` of the batch.
    """
    return {
        name: value.reshape(devices, value.shape[0] // devices, *value.shape[1:])
        for name, value in batch.items()
    }
