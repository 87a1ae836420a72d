"""Files of tokens: a magic line, what belongs to it, and the SHA-256 of all before it.

Nothing in them can be executed, and no byte can change unnoticed.
"""

import contextlib
import hashlib
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np

_DIGEST_BYTES = 32
_STALE_SECONDS = 24 * 3600


def write_tokens(path: Path, magic: bytes, parts: Iterable[bytes | memoryview]) -> None:
    """Writes a file that is not there yet, down to the disk.

    Args:
        path: of the file.
        magic: the first line, which tells its format.
        parts: what follows.
    """
    digest = hashlib.sha256(magic)
    with path.open("xb") as file:
        file.write(magic)
        for part in parts:
            digest.update(part)
            file.write(part)
        file.write(digest.digest())
        file.flush()
        os.fsync(file.fileno())


def parts_of(content: np.ndarray, magic: bytes) -> np.ndarray | None:
    """What was written to a file beside its magic line, as one; None if it is not what was written.

    Args:
        content: uint8, all of the file.
        magic: as for `write_tokens`.
    """
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    whole = (
        body[: len(magic)].tobytes() == magic
        and hashlib.sha256(body.data).digest() == digest.tobytes()
    )
    return body[len(magic) :] if whole else None


def remove_unfinished(folder: Path, pattern: str) -> None:
    """Removes what processes that died while writing have left; others may be writing now."""
    for path in folder.glob(pattern):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _STALE_SECONDS:
                path.unlink()
