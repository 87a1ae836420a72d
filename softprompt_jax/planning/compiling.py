"""The very step of a run, compiled from shapes: what memory it takes and how much it computes."""

import dataclasses
import functools
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from softprompt_jax.config import RunConfig
from softprompt_jax.data.buckets import Shape
from softprompt_jax.models.blocks import unroll_attention
from softprompt_jax.models.families import ModelConfig, build_module
from softprompt_jax.models.llama import LlamaConfig
from softprompt_jax.models.stacking import stack_blocks
from softprompt_jax.models.t5_config import T5Config
from softprompt_jax.prompts import PromptedModel
from softprompt_jax.training.chips import chip_of
from softprompt_jax.training.parallel import Device, Layout, MeshLayout
from softprompt_jax.training.setup import (
    parameterized,
    resolve_dtype,
    resolve_remat,
    resolve_scan,
    run_layout,
    set_memory,
    take_apart,
)
from softprompt_jax.training.step import TrainState, init_state


@dataclasses.dataclass(frozen=True)
class Scenario:
    """What is planned.

    Attributes:
        config: of the run.
        model: its architecture.
        shape: tokens that inputs and targets are padded to.
        devices: to compile for.
    """

    config: RunConfig
    model: ModelConfig
    shape: Shape
    devices: tuple[Device, ...]

    def changed(self, changes: Mapping[str, Any]) -> "Scenario":
        """With some of the config's options replaced, by dotted name."""
        return dataclasses.replace(self, config=self.config.replaced(changes))

    @functools.cached_property
    def layout(self) -> Layout:
        """The layout that the run would have.

        Raises:
            UserError: as `choose_layout`.
        """
        return run_layout(self.config, self.model, self.devices)


class Parameters(NamedTuple):
    """Numbers of parameters."""

    frozen: int
    trained: int


class Footprint(NamedTuple):
    """Memory of one device, in bytes.

    Attributes:
        fits: whether the step compiled, and within the device's memory.
        arguments: weights, state and batch.
        temporaries: what the step needs besides; None if it did not compile.
        peak: arguments, temporaries, results that do not overwrite arguments, and the program;
            of a step that did not compile what the compiler says that it needs, if it does.
        compile_seconds: wall time of the compiler.
    """

    fits: bool
    arguments: int
    temporaries: int | None
    peak: int | None
    compile_seconds: float


class Work(NamedTuple):
    """What one step does on all devices together.

    Attributes:
        flops: as XLA counts them.
        bytes_moved: between memory and cores, likewise.
    """

    flops: float
    bytes_moved: float


class _Arguments(NamedTuple):
    state: TrainState
    frozen: Any
    rows: dict[str, jax.ShapeDtypeStruct]


def lower_step(scenario: Scenario, *, loops: bool = True) -> tuple[Any, _Arguments]:
    """The run's step, lowered for its devices, and the shapes of what it takes.

    Args:
        scenario: what is planned.
        loops: False: attention has none, whatever the platform.
    """
    layout = scenario.layout
    prompted = _abstract_model(scenario, layout)
    if not loops:
        unroll_attention(prompted.model)
    parts = take_apart(scenario.config, prompted, layout)
    state = jax.eval_shape(lambda: init_state(parts.trainable, parts.optimizer, 0))
    frozen = parts.frozen
    step: Any = layout.step(parts.step, state)
    if isinstance(layout, MeshLayout):
        state = jax.tree.map(_placed, state, layout.state_shardings(state))
        frozen = jax.tree.map(_placed, frozen, layout.frozen_shardings(frozen))
    arguments = _Arguments(state, frozen, _abstract_rows(scenario, layout))
    return step.lower(*arguments), arguments


def _abstract_model(scenario: Scenario, layout: Layout) -> PromptedModel:
    config = scenario.config
    dtype = jnp.dtype(resolve_dtype(config, layout.platform))

    def build() -> PromptedModel:
        module = build_module(scenario.model, dtype=dtype, rngs=nnx.Rngs(0))
        tuned = config.train.method == "model_tuning"
        shape = (config.prompt.length, scenario.model.d_model)
        vectors = None if tuned else jnp.zeros(shape, jnp.float32)
        tasks = len(config.task.mixture)
        return PromptedModel(module, parameterized(config, vectors, tasks, module))

    prompted: Any = nnx.eval_shape(build)
    if resolve_scan(config):
        prompted.model = stack_blocks(prompted.model)
    set_memory(config, prompted.model, layout)
    return prompted


def _abstract_rows(scenario: Scenario, layout: Layout) -> dict[str, jax.ShapeDtypeStruct]:
    rows = scenario.config.train.batch_size
    mesh = isinstance(layout, MeshLayout)
    leading = (rows,) if mesh else (layout.shards, rows // layout.shards)
    sharding = layout.rows if isinstance(layout, MeshLayout) else None

    def array(dtype: Any, *width: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*leading, *width), dtype, sharding=sharding)

    return {
        "inputs": array(jnp.int32, scenario.shape.inputs),
        "input_mask": array(jnp.bool_, scenario.shape.inputs),
        "targets": array(jnp.int32, scenario.shape.targets),
        "target_mask": array(jnp.bool_, scenario.shape.targets),
        "prompt_ids": array(jnp.int32),
    }


def _placed(leaf: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _size(state: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(state))


# --- Memory ----------------------------------------------------------------------------------


def memory_limit(devices: Sequence[Device]) -> int | None:
    """Bytes of a device's memory; None on a CPU, whose memory is the machine's."""
    chip = chip_of(devices[0])
    return None if chip is None else chip.memory_bytes


def measure_memory(scenario: Scenario) -> tuple[Footprint, Parameters]:
    """Compiles the step and asks the compiler what it takes."""
    lowered, arguments = lower_step(scenario)
    parameters = Parameters(_size(arguments.frozen), _size(arguments.state.trainable))
    taken = _bytes_of(arguments)
    start = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        seconds = time.monotonic() - start
        return Footprint(False, taken, None, _needed(str(error), taken), seconds), parameters
    seconds = time.monotonic() - start
    memory = compiled.memory_analysis()
    taken, temporaries = memory.argument_size_in_bytes, memory.temp_size_in_bytes
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes
    peak = taken + temporaries + results + memory.generated_code_size_in_bytes
    limit = memory_limit(scenario.devices)
    fits = limit is None or peak <= limit
    return Footprint(fits, taken, temporaries, peak, seconds), parameters


def _bytes_of(arguments: _Arguments) -> int:
    """Bytes of the arguments on one device."""

    def of_leaf(leaf: Any) -> int:
        sharding = getattr(leaf, "sharding", None)
        shape = leaf.shape if sharding is None else sharding.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(of_leaf(leaf) for leaf in jax.tree.leaves(arguments))


def _needed(message: str, arguments: int) -> int | None:
    """Bytes that a program needs, from the TPU compiler's complaint about it."""
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    if match := re.search(r"temporaries \(([\d.]+)([KMG])\) exceeds", message):
        return int(float(match[1]) * units[match[2]]) + arguments
    if match := re.search(r"Used ([\d.]+)([KMG]) of", message):
        return int(float(match[1]) * units[match[2]])
    return None


# --- Work ------------------------------------------------------------------------------------


def measure_work(scenario: Scenario) -> Work | None:
    """Counts what the step does; None if even a few of its layers do not fit.

    XLA counts a loop's body once whatever its trips: so layers are unrolled, and one micro-batch
    stands for all, the optimizer's own share with it. Layers in the middle are alike: two depths
    give the share of one, and so all.
    """
    options = scenario.config.train
    platform = scenario.devices[0].platform
    one = scenario.changed(
        {
            "train.remat": resolve_remat(scenario.config, platform),
            "train.scan_layers": False,
            "train.accumulation": 1,
            "train.batch_size": options.batch_size // options.accumulation,
            # Chosen by the size of the whole model, not by that of the shallow ones below.
            "parallel.layout": "pmap" if scenario.layout.axis else "mesh",
        }
    )
    shallow, deeper = depths(scenario.model)
    try:
        base = count_work(dataclasses.replace(one, model=shallow))
        flops, bytes_moved = base
        for model, times in deeper:
            more = count_work(dataclasses.replace(one, model=model))
            flops += times * (more.flops - base.flops)
            bytes_moved += times * (more.bytes_moved - base.bytes_moved)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None
    return Work(flops * options.accumulation, bytes_moved * options.accumulation)


def depths(model: ModelConfig) -> tuple[ModelConfig, list[tuple[ModelConfig, int]]]:
    """A shallow model of this shape, deeper ones, and how often what they add is to be added.

    The first layer is unlike the others, since there gradients go to the prompt alone, and so is
    the last one of causal models, where only target positions count.
    """
    if isinstance(model, T5Config):

        def t5(encoder: int, decoder: int) -> ModelConfig:
            return dataclasses.replace(model, n_layers=encoder, n_decoder_layers=decoder)

        if model.n_layers == model.n_decoder_layers:
            deeper = [(t5(2, 2), model.n_layers - 1)]
        else:
            deeper = [(t5(2, 1), model.n_layers - 1), (t5(1, 2), model.n_decoder_layers - 1)]
        return t5(1, 1), [(config, times) for config, times in deeper if times]

    def causal(layers: int) -> ModelConfig:
        if isinstance(model, LlamaConfig):
            return dataclasses.replace(model, n_layers=layers, windows=model.windows[:layers])
        return dataclasses.replace(model, n_layers=layers)

    if model.n_layers <= 2:
        return model, []
    return causal(2), [(causal(3), model.n_layers - 2)]


def count_work(scenario: Scenario) -> Work:
    """What XLA counts in the compiled step, on all devices together; loops count once."""
    cost = lower_step(scenario, loops=False)[0].compile().cost_analysis()
    devices = len(scenario.layout.devices)
    return Work(cost["flops"] * devices, cost["bytes accessed"] * devices)
