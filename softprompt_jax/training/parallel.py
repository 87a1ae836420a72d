"""Layouts: how one pure step is spread over devices, by `jax.pmap` or over a mesh by `jax.jit`."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, Sharding

from softprompt_jax.config import ParallelOptions
from softprompt_jax.errors import UserError
from softprompt_jax.training.chips import chip_of
from softprompt_jax.training.sharding_rules import partition_spec
from softprompt_jax.training.step import TrainState

AXIS = "devices"
"""The mapped axis of `PmapLayout`."""
ROW_AXES = ("data", "fsdp")
"""The axes of a mesh that share the rows of a batch; weights are cut along the second as well."""
MESH_AXES = (*ROW_AXES, "tensor")

# Of a device's memory, what replicated weights may take before a mesh shares them out; activations
# and XLA's own buffers need the rest.
_REPLICATED_SHARE = 0.6

Device = Any  # jax.Device is a variable to type checkers, not a type


class Layout(ABC):
    """Which device holds what, and how functions of rows are compiled for that.

    Attributes:
        devices: all of them, over all processes.
        axis: name of the mapped axis that a step has to sum over; None if the compiler does it.
        shards: equal shares that the rows of a batch are cut into.
    """

    devices: tuple[Device, ...]
    axis: str | None
    shards: int

    @abstractmethod
    def own_rows(self, batch_size: int) -> np.ndarray:
        """Which rows of a batch this process's devices hold: int64, ascending."""

    @abstractmethod
    def place_rows(self, batch: Mapping[str, np.ndarray], batch_size: int) -> dict[str, Any]:
        """A batch as the compiled functions take it.

        Args:
            batch: `own_rows` of the batch.
            batch_size: rows of the whole batch.
        """

    @abstractmethod
    def sharding(self, path: str, shape: tuple[int, ...]) -> Sharding:
        """Where a parameter of the model goes.

        Args:
            path: dotted, as "encoder.blocks.0.attention.q.kernel".
            shape: of the whole parameter.
        """

    @abstractmethod
    def step(self, step: Callable[..., Any], state: TrainState) -> Callable[..., Any]:
        """Compiles `step(state, frozen, rows) -> (state, metrics)`; the old state is given away.

        Args:
            step: of `make_train_step` with this layout's axis.
            state: as it will be, or its shapes.
        """

    @abstractmethod
    def over_rows(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Compiles `function(trainable, frozen, rows, shared)`, whose results have a row each."""

    @abstractmethod
    def fetch(self, outputs: Sequence[Any]) -> list[np.ndarray]:
        """What functions of `over_rows` gave, `[rows, ...]` each, on every process."""

    def place_frozen(self, frozen: Any) -> Any:
        """The frozen weights (or what is evaluated with them) on the devices."""
        return jax.device_put(frozen, self.frozen_shardings(frozen))

    def frozen_shardings(self, frozen: Any) -> Any:
        """The sharding of every leaf of a `PromptedModel`'s state."""

        def of_leaf(path: Any, leaf: Any) -> Sharding:
            name = _parameter_path(path)
            return self.replicated if name is None else self.sharding(name, leaf.shape)

        return jax.tree_util.tree_map_with_path(of_leaf, frozen)

    def place_state(self, state: TrainState) -> TrainState:
        """The training state on the devices."""
        return jax.device_put(state, self.state_shardings(state))

    def state_shardings(self, state: TrainState) -> TrainState:
        """The sharding of every leaf: tuned weights and their moments like frozen ones."""
        trained = {
            _parameter_path(path): leaf.shape
            for path, leaf in jax.tree_util.tree_leaves_with_path(state.trainable)
        }

        def of_leaf(path: Any, leaf: Any) -> Sharding:
            name = _parameter_path(path)
            if name is None or leaf.shape != trained[name]:  # factored moments are small
                return self.replicated
            return self.sharding(name, leaf.shape)

        return jax.tree_util.tree_map_with_path(of_leaf, state)

    @property
    @abstractmethod
    def replicated(self) -> Sharding:
        """A whole copy on every device."""

    def __str__(self) -> str:
        return f"{len(self.devices)} {self.platform} device(s)"

    @property
    def platform(self) -> str:
        """What the devices are: "cpu", "gpu" or "tpu"."""
        return self.devices[0].platform


class PmapLayout(Layout):
    """`jax.pmap`: every device has all weights and its share of the rows.

    State and frozen weights keep their shapes (`in_axes=(None, None, 0)`), so nothing is stacked
    and a checkpoint is the same whatever the number of devices.
    """

    axis = AXIS

    def __init__(self, devices: Sequence[Device]):
        self.devices = tuple(devices)
        self.shards = len(devices)

    @property
    def replicated(self) -> Sharding:
        """A whole copy on every device."""
        return NamedSharding(Mesh(np.asarray(self.devices), (AXIS,)), PartitionSpec())

    def sharding(self, path: str, shape: tuple[int, ...]) -> Sharding:
        """A whole copy on every device."""
        return self.replicated

    def own_rows(self, batch_size: int) -> np.ndarray:
        """All rows: it is for one process."""
        return np.arange(batch_size)

    def place_rows(self, batch: Mapping[str, np.ndarray], batch_size: int) -> dict[str, Any]:
        """`[rows, ...]` to `[shards, rows/shards, ...]`: share d starts with row d * rows/shards.

        `jax.pmap` moves them to the devices.
        """
        rows = batch_size // self.shards
        return {name: x.reshape(self.shards, rows, *x.shape[1:]) for name, x in batch.items()}

    def step(self, step: Callable[..., Any], state: TrainState) -> Callable[..., Any]:
        """As `Layout.step`."""
        return self._pmap(step, (None, None, 0), out_axes=None, donate_argnums=(0,))

    def over_rows(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As `Layout.over_rows`; devices do not talk to each other."""
        return self._pmap(function, (None, None, 0, None))

    def _pmap(self, function: Callable[..., Any], in_axes: Any, **options: Any) -> Any:
        devices = list(self.devices)
        return jax.pmap(function, axis_name=AXIS, in_axes=in_axes, devices=devices, **options)

    def fetch(self, outputs: Sequence[Any]) -> list[np.ndarray]:
        """As `Layout.fetch`."""
        return [x.reshape(-1, *x.shape[2:]) for x in jax.device_get(list(outputs))]


class MeshLayout(Layout):
    """`jax.jit` over a mesh with the axes data, fsdp and tensor, for models of any size.

    Rows are cut along data and fsdp, weights along fsdp and tensor (`sharding_rules`). The compiler
    derives the rest: with weights cut along fsdp it collects those of a layer when they are needed;
    cut along tensor, each device computes its share of the heads and hidden units.

    References:
        Xu et al. 2021, "GSPMD: General and Scalable Parallelization for ML Computation Graphs".
    """

    axis = None

    def __init__(self, devices: Sequence[Device], *, data: int = 1, fsdp: int = 1, tensor: int = 1):
        self.devices = tuple(devices)
        self.shards = data * fsdp
        self.mesh = jax.make_mesh(
            (data, fsdp, tensor),
            MESH_AXES,
            devices=self.devices,
            axis_types=(AxisType.Auto,) * len(MESH_AXES),
        )
        self.rows = NamedSharding(self.mesh, PartitionSpec(ROW_AXES))

    def __str__(self) -> str:
        shape = " x ".join(f"{axis} {size}" for axis, size in self.mesh.shape.items())
        return f"{super().__str__()}, {shape}"

    @property
    def replicated(self) -> Sharding:
        """A whole copy on every device."""
        return NamedSharding(self.mesh, PartitionSpec())

    def sharding(self, path: str, shape: tuple[int, ...]) -> Sharding:
        """As `sharding_rules` has it."""
        return NamedSharding(self.mesh, partition_spec(path, shape, self.mesh.shape))

    def own_rows(self, batch_size: int) -> np.ndarray:
        """As `Layout.own_rows`."""
        shares = self.rows.addressable_devices_indices_map((batch_size,)).values()
        own = [np.arange(batch_size)[index] for index in shares if index is not None]
        return np.unique(np.concatenate(own))

    def place_rows(self, batch: Mapping[str, np.ndarray], batch_size: int) -> dict[str, Any]:
        """As `Layout.place_rows`: global arrays, of which this process has its part."""
        own = self.own_rows(batch_size)

        def place(values: np.ndarray) -> jax.Array:
            def share(index: Any) -> np.ndarray:
                rows = np.arange(batch_size)[index[0]]
                return values[np.searchsorted(own, rows)]

            shape = (batch_size, *values.shape[1:])
            return jax.make_array_from_callback(shape, self.rows, share)

        return {name: place(values) for name, values in batch.items()}

    def step(self, step: Callable[..., Any], state: TrainState) -> Callable[..., Any]:
        """As `Layout.step`; the new state lies as the old one."""
        shardings = (self.state_shardings(state), self.replicated)
        return jax.jit(step, donate_argnums=0, out_shardings=shardings)

    def over_rows(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """As `Layout.over_rows`; every device gets all results, which are small."""
        return jax.jit(function, out_shardings=self.replicated)

    def fetch(self, outputs: Sequence[Any]) -> list[np.ndarray]:
        """As `Layout.fetch`."""
        return jax.device_get(list(outputs))


def choose_layout(
    options: ParallelOptions,
    batch_size: int,
    accumulation: int = 1,
    *,
    weight_bytes: int = 0,
    devices: Sequence[Device] | None = None,
) -> Layout:
    """The layout that a run asks for.

    `auto` is pmap, unless axes of a mesh are given, there are several processes, or the weights
    would take more than 60 % of a device's memory.

    Args:
        options: of the run.
        batch_size: rows a step, which the devices and micro-batches must share evenly.
        accumulation: micro-batches a step.
        weight_bytes: of the whole model.
        devices: to choose from; None: those of this job.

    Raises:
        UserError: there are fewer devices, axes do not make up the devices, or the devices cannot
            share the batch.
    """
    several = jax.process_count() > 1
    available = list(jax.devices() if devices is None else devices)
    count = len(available) if options.devices is None else options.devices
    if count > len(available):
        raise UserError(
            f"--parallel.devices is {count}, but this machine has {len(available)}; ask for fewer."
        )
    if several and count < len(available):
        raise UserError(
            f"--parallel.devices {count} leaves devices of other processes out; leave the option "
            "out, or start fewer processes."
        )
    chosen = available[:count]
    axes = {name: getattr(options, name) for name in MESH_AXES}
    given = [f"--parallel.{name}" for name, size in axes.items() if size is not None]
    if options.layout == "pmap":
        if given:
            raise UserError(
                f"{given[0]} is an axis of a mesh; leave it out or give --parallel.layout mesh."
            )
        if several:
            raise UserError(
                "--parallel.layout pmap is for one process; several share a mesh: give "
                "--parallel.layout mesh."
            )
    limit = _memory_limit(chosen[0])
    too_large = limit is not None and weight_bytes > _REPLICATED_SHARE * limit
    if options.layout == "mesh" or (options.layout == "auto" and (given or several or too_large)):
        layout: Layout = MeshLayout(chosen, **_mesh_shape(axes, count))
    else:
        layout = PmapLayout(chosen)
    if batch_size % (layout.shards * accumulation):
        parts = f"{layout.shards} device{'s' if layout.shards > 1 else ''}"
        if accumulation > 1:
            parts += f" with {accumulation} micro-batches each"
        raise UserError(
            f"A batch of {batch_size} cannot be shared by {parts}; make --train.batch_size a "
            f"multiple of {layout.shards * accumulation} or set --parallel.devices."
        )
    return layout


def _mesh_shape(axes: Mapping[str, int | None], count: int) -> dict[str, int]:
    """Sizes of all axes: what is left goes to fsdp, else to data; tensor is 1 unless given."""
    sizes = {name: size for name, size in axes.items() if size is not None}
    sizes.setdefault("tensor", 1)
    last = "fsdp" if "fsdp" not in sizes else "data"
    if last not in sizes:
        sizes[last] = max(1, count // math.prod(sizes.values()))
    sizes.setdefault("data", 1)
    if math.prod(sizes.values()) != count:
        told = " x ".join(f"{name} {sizes[name]}" for name in MESH_AXES)
        raise UserError(
            f"A mesh of {told} does not make up {count} devices; change --parallel.data, "
            "--parallel.fsdp or --parallel.tensor."
        )
    return sizes


def _memory_limit(device: Device) -> int | None:
    """Bytes of a device's memory, None where nothing tells (CPU)."""
    try:
        stats = device.memory_stats()
    except (jax.errors.JaxRuntimeError, NotImplementedError):  # a device that is only described
        chip = chip_of(device)
        return None if chip is None else chip.memory_bytes
    return None if stats is None else stats.get("bytes_limit")


def _parameter_path(path: Any) -> str | None:
    """A leaf's dotted path within the language model; None for the prompt, counters and the like.

    The path may lead through an optimizer's state, where parameters go by their own paths.
    """
    name = jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value")
    _, model, inner = f".{name}".rpartition(".model.")
    return inner if model else None
