"""Checkpoint files as `TensorSource`s: safetensors and torch, in one file or in shards."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from softprompt_jax.errors import UserError


class SafetensorsSource:
    """A `.safetensors` file.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path):
        self.path = path
        with self._open() as file:
            self._shapes = {
                name: tuple(file.get_slice(name).get_shape()) for name in file.offset_keys()
            }

    def _open(self) -> Any:
        # Opened anew for each read: the library maps the whole file, and pages that were touched
        # count as this process's memory for as long as the map stands.
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(self.path, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise damaged(self.path, error) from error

    def names(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and shape."""
        return self._shapes

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """The tensor, or a range of its first axis, in the dtype of the file."""
        with self._open() as file:
            return file.get_slice(name)[rows] if self._shapes[name] else file.get_tensor(name)

    def close(self) -> None:
        """Nothing is held open."""


class TorchSource:
    """A torch `.bin` file, opened with `weights_only=True`, so nothing in it is executed.

    Attributes:
        path: the file.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            import torch
        except ImportError as error:
            raise UserError(
                f"Reading {path} needs torch; run `pip install torch`, or use a checkpoint with "
                "safetensors."
            ) from error
        try:
            # Files from before torch 1.6 are no zip archives and cannot be memory-mapped.
            tensors = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
        except Exception as error:  # torch raises whatever its unpickler meets
            raise damaged(path, error) from error
        if not isinstance(tensors, dict) or not all(
            isinstance(value, torch.Tensor) for value in tensors.values()
        ):
            raise UserError(f"{path} is no state_dict of tensors; use a model's weights file.")
        self._tensors: dict[str, Any] = tensors
        self._shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}

    def names(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and shape."""
        return self._shapes

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """The tensor, or a range of its first axis, in the dtype of the file."""
        import torch

        tensor = self._tensors[name].detach()
        tensor = tensor[rows] if tensor.ndim else tensor
        if tensor.dtype == torch.bfloat16:  # NumPy has no such type of its own
            return tensor.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return tensor.numpy()

    def close(self) -> None:
        """Lets go of the memory map."""
        self._tensors = {}


class ShardedSource:
    """Several files under one index, as transformers writes large models.

    Attributes:
        path: the index file.
    """

    def __init__(self, path: Path, open_shard: Callable[[Path], Any]):
        self.path = path
        self._shards: dict[str, Any] = {}
        self._where: dict[str, str] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        weight_map = read_weight_map(path)
        for shard in sorted(set(weight_map.values())):
            self._shards[shard] = open_shard(path.parent / shard)
            shapes = self._shards[shard].names()
            self._shapes.update(shapes)
            self._where.update(dict.fromkeys(shapes, shard))
        if len(self._where) != len(weight_map):
            raise UserError(
                f"{path} lists {len(weight_map)} tensors and its files hold {len(self._where)}; "
                "fetch the model again."
            )

    def names(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's name and shape, over all shards."""
        return self._shapes

    def read(self, name: str, rows: slice = slice(None)) -> np.ndarray:
        """The tensor, or a range of its first axis, in the dtype of its file."""
        return self._shards[self._where[name]].read(name, rows)

    def close(self) -> None:
        """Closes all shards."""
        for shard in self._shards.values():
            shard.close()


def read_weight_map(path: Path) -> dict[str, str]:
    """Tensor name to file name, from an index file such as `model.safetensors.index.json`.

    Raises:
        UserError: the index is damaged or names a file outside its folder.
    """
    index = read_json(path)
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(
        isinstance(shard, str) and Path(shard).name == shard for shard in weight_map.values()
    ):
        raise UserError(f"{path} has no usable weight_map; fetch the model again.")
    return weight_map


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        UserError: the file cannot be read or is no JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, error) from error
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold a JSON object; fetch the model again.")
    return value


def damaged(path: Path, error: Exception) -> UserError:
    """The one sentence for a file that is missing, cut short or otherwise unreadable."""
    if isinstance(error, FileNotFoundError):
        return UserError(f"{path} is missing; fetch the model again.")
    reason = str(error).strip().split("\n")[0].rstrip(".")
    return UserError(
        f"{path} cannot be read ({type(error).__name__}: {reason}); it is damaged or cut short, "
        "so fetch it again."
    )
