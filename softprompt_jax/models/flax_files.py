"""`flax_model.msgpack` as a `TensorSource`, read in place.

`flax.serialization.msgpack_restore` wants the whole file in memory and makes every array besides.
The format is simple enough to walk: nested maps whose leaves are msgpack extensions of type 1,
each a packed triple (shape, dtype name, raw bytes), or a map of its shape and of flat pieces where
it has more than a gigabyte. Only where the bytes stand is kept.
"""

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from softprompt_jax.models.tensor_files import damaged

_READ = mmap.ACCESS_READ
_CHUNKED = "__msgpack_chunked_array__"  # how flax marks a tensor in pieces
_NDARRAY = 1  # flax.serialization._MsgpackExtType.ndarray
_DTYPES = {
    "float16": np.dtype(np.float16),
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int32": np.dtype(np.int32),
    "int64": np.dtype(np.int64),
    "bool": np.dtype(np.bool_),
}


@dataclass(frozen=True)
class _Array:
    """Where an array stands: the offset and the number of values of each of its pieces."""

    shape: tuple[int, ...]
    dtype: np.dtype
    pieces: tuple[tuple[int, int], ...]


class FlaxSource:
    """A `flax_model.msgpack` file of transformers' Flax models, under torch's names and layout.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=_READ) as data:
                arrays = _Walk(data).arrays()
        except (
            OSError,
            RecursionError,
            ValueError,
            TypeError,
            KeyError,
            IndexError,
            struct.error,
        ) as error:
            raise damaged(path, error) from error
        self._arrays: dict[str, tuple[_Array, bool]] = {}
        for keys, array in arrays.items():
            name, transpose = torch_name(keys)
            self._arrays[name] = (array, transpose and len(array.shape) == 2)
        self._shapes = {
            name: array.shape[::-1] if transpose else array.shape
            for name, (array, transpose) in self._arrays.items()
        }

    def names(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's torch name and torch shape."""
        return self._shapes

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """The tensor in torch's layout, or a range of its first axis."""
        array, transpose = self._arrays[name]
        if transpose or not array.shape:
            values = self._flat(array, 0, math.prod(array.shape)).reshape(array.shape)
            return np.array(values.T[rows] if transpose else values)
        first, last, _ = rows.indices(array.shape[0])
        width = math.prod(array.shape[1:])
        values = self._flat(array, first * width, max(first, last) * width)
        return np.array(values.reshape(-1, *array.shape[1:]))

    def _flat(self, array: _Array, first: int, last: int) -> np.ndarray:
        """Values of an array in the order that they are stored in."""
        parts, start = [], 0
        for offset, count in array.pieces:
            # Mapped anew for each read, as in SafetensorsSource.
            if first < start + count and start < last:
                piece = np.memmap(self.path, array.dtype, "r", offset, (count,))
                parts.append(piece[max(first - start, 0) : last - start])
            start += count
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, array.dtype), *parts])

    def close(self) -> None:
        """Nothing is held open."""


def torch_name(keys: tuple[str, ...]) -> tuple[str, bool]:
    """The torch name of a Flax parameter and whether its matrix is stored transposed.

    transformers' Flax models spell the modules as its torch models do; only the leaf differs. Its
    GPT-2 keeps Conv1D kernels as [out, in], the reverse of torch's, so kernels are always turned.
    """
    *modules, leaf = keys
    ours = {"kernel": "weight", "embedding": "weight", "scale": "weight"}.get(leaf, leaf)
    return ".".join([*modules, ours]), leaf == "kernel"


class _Walk:
    """Reads maps, strings and array extensions of msgpack from a buffer, and nothing else."""

    def __init__(self, data: mmap.mmap):
        self._data = data
        self._at = 0

    def arrays(self) -> dict[tuple[str, ...], _Array]:
        found: dict[tuple[str, ...], _Array] = {}
        self._value((), found)
        if self._at != len(self._data):
            raise ValueError(f"{len(self._data) - self._at} bytes are left over")
        return found

    def _value(self, keys: tuple[str, ...], found: dict[tuple[str, ...], _Array]) -> None:
        byte = self._data[self._at]
        if byte & 0xF0 == 0x80 or byte in (0xDE, 0xDF):
            for _ in range(self._map_length()):
                key = self._text()
                if key == _CHUNKED:
                    found[keys] = self._array_in_pieces()
                    return
                self._value((*keys, key), found)
            return
        if byte not in (0xC7, 0xC8, 0xC9):
            raise ValueError(f"unexpected msgpack type {byte:#x} at byte {self._at}")
        length = self._length(byte, None, 0, {0xC7: ">B", 0xC8: ">H", 0xC9: ">I"})
        code, end = self._data[self._at], self._at + 1 + length
        if code != _NDARRAY:
            raise ValueError(f"unexpected msgpack extension {code} at byte {self._at}")
        self._at += 1
        found[keys] = self._array()
        if self._at != end or end > len(self._data):
            raise ValueError(f"array {'.'.join(keys)} does not end where it should")

    def _array_in_pieces(self) -> _Array:
        """What follows the key that marks it: true, the shape and the pieces, both with numbers."""
        self._at += 1
        sizes: dict[int, int] = {}
        pieces: dict[tuple[str, ...], _Array] = {}
        for _ in range(2):
            if (key := self._text()) == "shape":
                sizes = {int(self._text()): self._integer() for _ in range(self._map_length())}
            elif key == "chunks":
                self._value((), pieces)
            else:
                raise ValueError(f"an array in pieces has {key!r}")
        shape = tuple(sizes[i] for i in range(len(sizes)))
        in_order = [pieces[(str(i),)] for i in range(len(pieces))]
        if sum(piece.pieces[0][1] for piece in in_order) != math.prod(shape):
            raise ValueError(f"the pieces of an array do not make up its shape {shape}")
        if len({piece.dtype for piece in in_order}) != 1:
            raise ValueError("the pieces of an array are of several types, or missing")
        return _Array(shape, in_order[0].dtype, tuple(piece.pieces[0] for piece in in_order))

    def _map_length(self) -> int:
        return self._length(self._data[self._at], 0x80, 0x0F, {0xDE: ">H", 0xDF: ">I"})

    def _array(self) -> _Array:
        if self._data[self._at] != 0x93:
            raise ValueError(f"no array at byte {self._at}")
        self._at += 1
        rank = self._length(self._data[self._at], 0x90, 0x0F, {})
        shape = tuple(self._integer() for _ in range(rank))
        dtype = _DTYPES[self._text()]
        size = self._length(self._data[self._at], None, 0, {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"})
        if size != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"array at byte {self._at} has {size} bytes for shape {shape}")
        offset, self._at = self._at, self._at + size
        return _Array(shape, dtype, ((offset, math.prod(shape)),))

    def _text(self) -> str:
        formats = {0xD9: ">B", 0xDA: ">H", 0xDB: ">I", 0xC4: ">B"}
        length = self._length(self._data[self._at], 0xA0, 0x1F, formats)
        text = self._data[self._at : self._at + length].decode("utf-8")
        self._at += length
        return text

    def _integer(self) -> int:
        byte = self._data[self._at]
        self._at += 1
        if byte < 0x80:
            return byte
        return self._unpack({0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q"}[byte])

    def _length(self, byte: int, fixed: int | None, mask: int, formats: dict[int, str]) -> int:
        """A length that is part of the type byte (`fixed`) or that follows it."""
        self._at += 1
        if fixed is not None and byte & ~mask & 0xFF == fixed:
            return byte & mask
        if byte not in formats:
            raise ValueError(f"unexpected msgpack type {byte:#x} at byte {self._at - 1}")
        return self._unpack(formats[byte])

    def _unpack(self, layout: str) -> Any:
        (value,) = struct.unpack_from(layout, self._data, self._at)
        self._at += struct.calcsize(layout)
        return value
