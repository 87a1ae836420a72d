"""What comes from outside, checked before it is used; single files that are whole or absent."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from softprompt_jax.errors import UserError

# A description is some kilobytes and a prompt some megabytes at most: larger files are something
# else, and are not read.
MOST_JSON_BYTES = 2**24
MOST_PROMPT_BYTES = 2**30


def read_json_object(path: Path) -> dict[str, Any]:
    """A JSON object from a file that anybody may have written.

    Raises:
        UserError: the file is missing, too large, damaged, or holds something else.
    """
    check_size(path, MOST_JSON_BYTES)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(path, error) from None
    if not isinstance(value, dict):
        raise UserError(f"{path} should hold a JSON object; fetch it again.")
    return value


def check_size(path: Path, most: int = MOST_PROMPT_BYTES) -> None:
    """Refuses a file that is missing or larger than any of its kind.

    Raises:
        UserError: so it is.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}; give the path of one.")
    if (size := path.stat().st_size) > most:
        raise UserError(
            f"{path} has {size} bytes, more than the {most} that such a file may have; choose "
            "another."
        )


def check_vectors(array: Any, origin: str | Path) -> np.ndarray:
    """A prompt's vectors, float32 `[length, d_model]` in C order.

    Args:
        array: what was read.
        origin: where, for the message.

    Raises:
        UserError: it is no matrix of finite floats.
    """
    array = np.asarray(array)
    floats = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    if array.ndim != 2 or array.size == 0 or not floats:
        raise UserError(
            f"The prompt in {origin} has shape {list(array.shape)} and type {array.dtype}, but a "
            "prompt is floats of shape [length, d_model]; choose another."
        )
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, and is refused
        # A copy: the array may lie in a mapped file, which can change under us.
        vectors = np.array(array, np.float32, order="C")
    if not np.isfinite(vectors).all():
        raise UserError(
            f"The prompt in {origin} holds numbers that are not finite; choose another."
        )
    return vectors


def damaged(path: Path, error: Exception) -> UserError:
    """The one sentence for a file that cannot be read."""
    lines = str(error).strip().splitlines()
    reason = lines[0].rstrip(".")[:200] if lines else ""
    told = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
    return UserError(f"{path} cannot be read ({told}); it is damaged, so fetch it again.")
