"""From a checkpoint's tensors to a module's parameters, one tensor at a time.

Shapes come first: every name and shape that a source announces is compared with the module's
before any tensor is read, and everything that does not fit is told together. Then each tensor is
read in blocks of rows, cast, transposed and put on the devices that hold a part of it, so that the
host never holds more than one tensor (of all layers, where they are stacked); or, where the devices
are the host, than the parameters in the wished dtype and one tensor besides.
"""

import functools
import hashlib
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec, Sharding

from softprompt_jax.errors import UserError
from softprompt_jax.models.parameter_tables import TABLES, TIED_HEAD, find_rule, is_ignored
from softprompt_jax.models.stacking import each_layer, is_of_stack, stack_blocks

_BLOCK_ELEMENTS = 4 << 20  # 16 MB of float32: what a tensor is read in
_LISTED = 10  # how many names of each kind an error lists
_FINGERPRINT_VALUES = 16

_OUR_HEAD = "head.kernel"
_FLOATS = ("float32", "float16", "bfloat16", "float64")


class TensorSource(Protocol):
    """The tensors of a checkpoint, under torch's names and in torch's layout."""

    path: Path
    """The file or folder, for messages."""

    def names(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's name and shape, known without reading a tensor."""
        ...

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """The tensor, or a range of its first axis; any floating dtype.

        Raises:
            UserError: the file is damaged.
        """
        ...

    def close(self) -> None:
        """Lets go of the files."""
        ...


ShardingOf = Callable[[str, tuple[int, ...]], Sharding]
"""From a parameter's dotted path and shape to where it goes."""


def load_parameters(
    source: TensorSource,
    abstract_module: Any,
    family: str,
    dtype: np.dtype | type,
    sharding_of: ShardingOf | None = None,
    stacked: bool = False,
) -> Any:
    """Fills a module that was built under `nnx.eval_shape` from a checkpoint.

    Args:
        source: where the tensors are.
        abstract_module: the module with `jax.ShapeDtypeStruct` parameters, its blocks in lists.
        family: which of `parameter_tables.TABLES` to go by.
        dtype: what the parameters become, float32 or bfloat16.
        sharding_of: where each goes; None: to the default device. Of a tensor that several
            processes share, each reads the rows that its own devices hold something of.
        stacked: whether to stack the blocks.

    Returns:
        The module with its parameters on the devices.

    Raises:
        UserError: tensors are missing, surplus or of another shape (all in one sentence), are no
            floating-point numbers, or the file is damaged; or the blocks cannot be stacked.
    """
    wanted = {path: tuple(leaf.shape) for path, leaf in _flat(abstract_module).items()}
    plan = _plan(source, family, wanted)
    graphdef, state = nnx.split(stack_blocks(abstract_module) if stacked else abstract_module)
    flat = dict(nnx.to_flat_state(state))
    for keys, leaf in flat.items():
        path, shape = ".".join(map(str, keys)), tuple(leaf.shape)
        parts = each_layer(path, shape[0]) if is_of_stack(path) else [path]
        names = [plan[part] for part in parts]
        sharding = None if sharding_of is None else sharding_of(path, shape)
        flat[keys] = leaf.replace(_read(source, names, shape, dtype, sharding))
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def _plan(
    source: TensorSource, family: str, wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, tuple[str, bool]]:
    """Parameter path to (tensor name, transpose); one UserError for all that does not fit."""
    plan: dict[str, tuple[str, bool]] = {}
    surplus, misshapen = [], []
    for name, shape in source.names().items():
        rule = find_rule(family, name)
        if rule is None or rule[0] not in wanted:
            if not is_ignored(family, name) and not (name == TIED_HEAD and _OUR_HEAD not in wanted):
                surplus.append(name)
            continue
        path, transpose = rule
        expected = wanted[path][::-1] if transpose else wanted[path]
        plan[path] = (name, transpose)
        if tuple(shape) != expected:
            misshapen.append(f"{name} is {list(shape)} and should be {list(expected)}")
    missing = [" or ".join(torch_names(family, path)) for path in wanted if path not in plan]
    problems = [
        _listing(kind, items)
        for kind, items in (("missing", missing), ("surplus", surplus), ("misshapen", misshapen))
        if items
    ]
    if problems:
        raise UserError(
            f"The tensors in {source.path} are not those of the {family} model that its config "
            f"describes ({'; '.join(problems)}); use the config and weights of one model."
        )
    return plan


def _listing(kind: str, items: list[str]) -> str:
    rest = "" if len(items) <= _LISTED else f", and {len(items) - _LISTED} more"
    return f"{len(items)} {kind}: {', '.join(items[:_LISTED])}{rest}"


def _read(
    source: TensorSource,
    names: Sequence[tuple[str, bool]],
    shape: tuple[int, ...],
    dtype: np.dtype | type,
    sharding: Sharding | None,
) -> jax.Array:
    """One parameter, read in blocks of rows into its shards, each of which goes to its devices.

    Args:
        source: where the tensors are.
        names: (tensor name, transpose) of the parameter, or of each layer that it stacks.
        shape: of the whole parameter.
        dtype: of the parameter.
        sharding: where it goes; None: to the default device, uncommitted.
    """
    devices: dict[_Box, list[Any]] = {}
    if sharding is None:
        devices[_box((slice(None),) * len(shape), shape)] = [None]
    else:
        for device, index in sharding.addressable_devices_indices_map(shape).items():
            devices.setdefault(_box(index or (), shape), []).append(device)
    shards = {box: np.empty([stop - start for start, stop in box], dtype) for box in devices}
    own_rank = len(source.names()[names[0][0]])
    for layer, (name, transpose) in enumerate(names):
        parts = []
        for box, shard in shards.items():
            if len(shape) > own_rank:
                (first, last), *box = box
                if not first <= layer < last:
                    continue
                shard = shard[layer - first]
            parts.append((box[::-1], shard.T) if transpose else (box, shard))
        _fill(source, name, parts)
    arrays = []
    while shards:  # one shard at a time is let go of: where the device is the host, it is a copy
        box, shard = shards.popitem()
        placed = [jax.device_put(shard, device) for device in devices[box]]
        arrays += jax.block_until_ready(placed)
    if sharding is None:
        return arrays[0]
    return jax.make_array_from_single_device_arrays(shape, sharding, arrays)


_Box = tuple[tuple[int, int], ...]
"""First index and the one past the last, of each dimension."""


def _box(index: Sequence[slice], shape: tuple[int, ...]) -> _Box:
    return tuple(each.indices(size)[:2] for each, size in zip(index, shape, strict=True))


def _fill(source: TensorSource, name: str, parts: Sequence[tuple[_Box, np.ndarray]]) -> None:
    """Reads a tensor, in its own layout, into parts of it; rows that none wants are left out."""
    shape = tuple(source.names()[name])
    if not shape:
        for _, part in parts:
            part[...] = _as_float(source, name, slice(None))
        return
    for block in _row_blocks(shape):
        wanted = [
            (max(block.start, box[0][0]), min(block.stop, box[0][1]), box, part)
            for box, part in parts
            if max(block.start, box[0][0]) < min(block.stop, box[0][1])
        ]
        if not wanted:
            continue
        first, last = min(each[0] for each in wanted), max(each[1] for each in wanted)
        values = _as_float(source, name, slice(first, last))
        for start, stop, box, part in wanted:
            columns = tuple(slice(*ends) for ends in box[1:])
            part[start - box[0][0] : stop - box[0][0]] = values[
                (slice(start - first, stop - first), *columns)
            ]


def _row_blocks(shape: tuple[int, ...]) -> Iterator[slice]:
    rows = max(1, _BLOCK_ELEMENTS // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], rows):
        yield slice(start, min(start + rows, shape[0]))


def _as_float(source: TensorSource, name: str, rows: slice) -> np.ndarray:
    values = source.read(name, rows)
    if values.dtype.name not in _FLOATS:
        raise UserError(
            f"{name} in {source.path} holds {values.dtype.name} values, and only floating-point "
            f"weights can be loaded; use an unquantised checkpoint or a .gguf file."
        )
    return values


def same_values(source: TensorSource, first: str, second: str) -> bool:
    """Whether two tensors of a checkpoint hold the same numbers; reads block by block."""
    shapes = source.names()
    if shapes[first] != shapes[second]:
        return False
    return all(
        np.array_equal(source.read(first, block), source.read(second, block))
        for block in _row_blocks(tuple(shapes[first]))
    )


class RenamedSource:
    """A source some of whose tensors go by other names.

    Attributes:
        path: the underlying source's.
    """

    def __init__(self, source: TensorSource, new_names: Mapping[str, str]):
        self._source = source
        self.path = source.path
        self._old_names = {new_names.get(name, name): name for name in source.names()}
        self._shapes = {new: source.names()[old] for new, old in self._old_names.items()}

    def names(self) -> Mapping[str, tuple[int, ...]]:
        """Every tensor's new name and its shape."""
        return self._shapes

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """The tensor of that new name, or a range of its first axis."""
        return self._source.read(self._old_names[name], rows)

    def close(self) -> None:
        """Closes the underlying source."""
        self._source.close()


def torch_names(family: str, path: str) -> list[str]:
    """The checkpoint names that the family's table maps to a parameter: the table read backwards.

    Args:
        family: "t5", "llama" or "gpt2".
        path: our dotted parameter path.

    Returns:
        The names, with optional prefixes such as "model." written out; usually one, two where a
        family spells a layer in two ways. The path itself when no rule gives it.
    """
    names = []
    for rule in TABLES[family]:
        groups = re.findall(r"\((?!\?)[^()]*\)", rule.pattern)
        template = re.escape(rule.path)
        for number, group in enumerate(groups, start=1):
            template = template.replace(re.escape(f"\\{number}"), f"(?P<g{number}>{group[1:-1]})")
        match = re.fullmatch(template, path)
        if match is None:
            continue
        name = rule.pattern
        for number, group in enumerate(groups, start=1):
            name = name.replace(group, match[f"g{number}"], 1)
        names.append(re.sub(r"\(\?:([^()]*)\)\?", r"\1", name).replace("\\.", "."))
    return names or [path]


def fingerprint(config: Any, module: Any) -> str:
    """16 hex digits that tell one model's weights from another's.

    SHA-256 over the family, and for every parameter its path, its shape and 16 evenly spaced
    values as bfloat16: so it is cheap, and is the same whether the weights were loaded as float32
    or as bfloat16, stacked or not, and wherever they lie. If several processes share the weights,
    all have to call it.

    Args:
        config: the model's config; its `family` is taken.
        module: the model, with its parameters on any devices.
    """
    told: dict[str, bytes] = {}
    for path, leaf in _flat(module).items():
        values, of_stack = leaf[...], is_of_stack(path)
        shape = values.shape[1:] if of_stack else values.shape
        spots = np.linspace(0, math.prod(shape) - 1, _FINGERPRINT_VALUES).astype(np.int64)
        index = tuple(each.astype(np.int32) for each in np.unravel_index(spots, shape))
        paths = [path]
        if of_stack:
            paths = list(each_layer(path, values.shape[0]))
            index = (
                np.arange(len(paths), dtype=np.int32)[:, None],
                *(each[None] for each in index),
            )
        # One after the other: CPU devices do not stand many sums over them under way.
        samples = jax.device_get(_values_at(values, index, _everywhere(values)))
        for each, sample in zip(paths, samples.reshape(len(paths), -1), strict=True):
            told[each] = (
                f"{each}{list(shape)}".encode() + sample.astype(ml_dtypes.bfloat16).tobytes()
            )
    digest = hashlib.sha256(config.family.encode())
    for _, each in sorted(told.items()):
        digest.update(each)
    return digest.hexdigest()[:16]


@functools.partial(jax.jit, static_argnums=2)
def _values_at(values: Any, index: Any, everywhere: Sharding | None) -> Any:
    """`values[index]`; of a tensor in shards, each device's own values, summed over the devices."""
    if everywhere is None:
        return values[index]
    # As integers, since a sum with 0.0 would turn -0.0 into 0.0.
    bits = jax.lax.bitcast_convert_type(values, jnp.dtype(f"uint{8 * values.dtype.itemsize}"))
    found = jax.lax.with_sharding_constraint(bits[index], everywhere)
    return jax.lax.bitcast_convert_type(found, values.dtype)


def _everywhere(values: Any) -> Sharding | None:
    """A whole copy on each device of a mesh; None where there is no mesh."""
    sharding = getattr(values, "sharding", None)
    return (
        NamedSharding(sharding.mesh, PartitionSpec())
        if isinstance(sharding, NamedSharding)
        else None
    )


def _flat(module: Any) -> dict[str, Any]:
    """Dotted path to parameter."""
    state = nnx.to_flat_state(nnx.state(module, nnx.Param))
    return {".".join(map(str, path)): leaf for path, leaf in state}
