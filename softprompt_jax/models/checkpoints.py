"""From a checkpoint's tensors to a module's parameters, one tensor at a time.

Shapes come first: every name and shape that a source announces is compared with the module's
before any tensor is read, and everything that does not fit is told together. Then each tensor is
read in blocks of rows, cast, transposed and put on the device, so that the host never holds more
than the parameters in the wished dtype and one tensor besides.
"""

import hashlib
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import ml_dtypes
import numpy as np
from flax import nnx

from softprompt_jax.errors import UserError
from softprompt_jax.models.parameter_tables import TABLES, TIED_HEAD, find_rule, is_ignored

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


def load_parameters(
    source: TensorSource, abstract_module: Any, family: str, dtype: np.dtype | type
) -> Any:
    """Fills a module that was built under `nnx.eval_shape` from a checkpoint.

    Args:
        source: Where the tensors are.
        abstract_module: The module with `jax.ShapeDtypeStruct` parameters.
        family: Which of `parameter_tables.TABLES` to go by.
        dtype: What the parameters become, float32 or bfloat16.

    Returns:
        The module with its parameters on the default device.

    Raises:
        UserError: tensors are missing, surplus or of another shape (all in one sentence), are no
            floating-point numbers, or the file is damaged.
    """
    graphdef, state = nnx.split(abstract_module)
    flat = dict(nnx.to_flat_state(state))
    wanted = {".".join(map(str, path)): tuple(leaf.shape) for path, leaf in flat.items()}
    plan = _plan(source, family, wanted)
    for path, leaf in flat.items():
        name, transpose = plan[".".join(map(str, path))]
        flat[path] = leaf.replace(jax.device_put(_assemble(source, name, transpose, dtype)))
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


def _assemble(
    source: TensorSource, name: str, transpose: bool, dtype: np.dtype | type
) -> np.ndarray:
    """Reads one tensor in blocks of rows into its final layout and dtype."""
    shape = tuple(source.names()[name])
    if not shape:
        return _as_float(source, name, slice(None)).astype(dtype)
    out = np.empty(shape[::-1] if transpose else shape, dtype)
    for block in _row_blocks(shape):
        values = _as_float(source, name, block)
        if transpose:
            out[:, block] = values.T
        else:
            out[block] = values
    return out


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
        path: The underlying source's.
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
        path: Our dotted parameter path.

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
    or as bfloat16.

    Args:
        config: The model's config; its `family` is taken.
        module: The model, with its parameters on any devices.
    """
    flat = {".".join(map(str, path)): leaf[...] for path, leaf in _flat_state(module)}
    digest = hashlib.sha256(config.family.encode())
    samples = {}
    for path, values in flat.items():
        spots = np.linspace(0, values.size - 1, _FINGERPRINT_VALUES).astype(np.int64)
        samples[path] = values[np.unravel_index(spots, values.shape)]
    for path, sample in sorted(jax.device_get(samples).items()):
        digest.update(f"{path}{list(flat[path].shape)}".encode())
        digest.update(np.asarray(sample).astype(ml_dtypes.bfloat16).tobytes())
    return digest.hexdigest()[:16]


def _flat_state(module: Any) -> list[tuple[tuple[Any, ...], Any]]:
    return list(nnx.to_flat_state(nnx.state(module, nnx.Param)))
