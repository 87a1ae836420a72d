"""Tokenised splits kept on disk for the next run."""

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from softprompt_jax.data.token_files import parts_of, remove_unfinished, write_tokens
from softprompt_jax.data.tokenization import TokenizedExamples
from softprompt_jax.errors import UserError

# After the magic line (24 bytes): the length of what comes next (8 bytes); JSON, filled up with
# spaces; the four arrays, offsets first. Numbers are little-endian, and everything is aligned.
_MAGIC = b"softprompt-jax tokens 1\n"
_ALIGNMENT = 8  # bytes


class TokenCache:
    """A folder of tokenised splits, each in a file named by its key.

    Any number of processes may read and write it at once.

    Args:
        folder: made when the first split is saved.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def load(self, key: str) -> tuple[TokenizedExamples, Any] | None:
        """The split that was saved under a key, and the `extra` that was saved with it.

        Returns:
            None when there is none, or when its file is damaged: that file is removed.

        Raises:
            UserError: the file is there but may not be read.
        """
        path = self._path(key)
        try:
            content = np.fromfile(path, np.uint8)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UserError(
                f"The cached tokens {path} cannot be read ({error.strerror}); remove them."
            ) from None
        saved = _parse(content, key)
        if saved is None:
            with contextlib.suppress(OSError):
                path.unlink()
        return saved

    def save(self, key: str, examples: TokenizedExamples, extra: Any) -> None:
        """Keeps a split.

        Args:
            key: see `cache_key`.
            examples: the split.
            extra: what else belongs to it, as JSON can hold it.

        Raises:
            UserError: the folder cannot be written.
        """
        path = self._path(key)
        fresh = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_unfinished(self.folder, ".*.tokens.*.tmp")
            try:
                write_tokens(fresh, _MAGIC, _parts(key, examples, extra))
                os.replace(fresh, path)
            finally:
                fresh.unlink(missing_ok=True)
        except OSError as error:
            raise UserError(
                f"The tokens cannot be kept in {self.folder} ({error.strerror}); make room there "
                "or choose another folder."
            ) from None

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.tokens"


def cache_key(**parts: Any) -> str:
    """A name for what these parts decide: 64 hexadecimal digits, others when any part changes.

    Args:
        **parts: as JSON can hold them; the order of dicts does not matter.
    """
    return hashlib.sha256(_canonical(parts)).hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """A digest of all that decides the ids of a transformers tokenizer: 64 hexadecimal digits."""
    parts: dict[str, Any] = {"split_special_tokens": getattr(tokenizer, "split_special_tokens", 0)}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        parts |= json.loads(backend.to_str())
        # Set anew by every call, and of no effect here: calls ask for neither.
        parts |= {"truncation": None, "padding": None}
        return hashlib.sha256(_canonical(parts)).hexdigest()
    # A tokenizer in Python: its class is its rules, its vocabulary and settings what it knows.
    parts["class"] = f"{type(tokenizer).__module__}.{type(tokenizer).__qualname__}"
    parts["vocabulary"] = tokenizer.get_vocab()
    parts["special"] = {role: str(tokens) for role, tokens in tokenizer.special_tokens_map.items()}
    parts["settings"] = {name: repr(value) for name, value in tokenizer.init_kwargs.items()}
    digest = hashlib.sha256(_canonical(parts))
    if (pieces := getattr(tokenizer, "sp_model", None)) is not None:
        digest.update(pieces.serialized_model_proto())
    return digest.hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _parts(key: str, examples: TokenizedExamples, extra: Any) -> Iterator[bytes | memoryview]:
    header = json.dumps(
        {
            "key": key,
            "rows": len(examples),
            "input_tokens": int(examples.input_offsets[-1]),
            "target_tokens": int(examples.target_offsets[-1]),
            "truncated_inputs": examples.truncated_inputs,
            "truncated_targets": examples.truncated_targets,
            "extra": extra,
        }
    ).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    yield len(header).to_bytes(_ALIGNMENT, "little")
    yield header
    yield np.ascontiguousarray(examples.input_offsets, "<i8").data
    yield np.ascontiguousarray(examples.target_offsets, "<i8").data
    yield np.ascontiguousarray(examples.inputs[: examples.input_offsets[-1]], "<i4").data
    yield np.ascontiguousarray(examples.targets[: examples.target_offsets[-1]], "<i4").data


def _parse(content: np.ndarray, key: str) -> tuple[TokenizedExamples, Any] | None:
    """What the bytes of a file hold; None when they are not what `save` wrote for this key."""
    body = parts_of(content, _MAGIC)
    if body is None:
        return None
    end = _ALIGNMENT + int.from_bytes(body[:_ALIGNMENT].tobytes(), "little")
    try:
        header = json.loads(body[_ALIGNMENT:end].tobytes())
        offsets = 8 * (header["rows"] + 1)
        sizes = [offsets, offsets, 4 * header["input_tokens"], 4 * header["target_tokens"]]
        if header["key"] != key or min(sizes) < 1 or end + sum(sizes) != len(body):
            return None
        parts = np.split(body[end:], np.cumsum(sizes[:-1]))
        examples = TokenizedExamples(
            inputs=parts[2].view("<i4"),
            input_offsets=parts[0].view("<i8"),
            targets=parts[3].view("<i4"),
            target_offsets=parts[1].view("<i8"),
            truncated_inputs=header["truncated_inputs"],
            truncated_targets=header["truncated_targets"],
        )
        extra = header["extra"]
    # A digest that is right over content that is not: another program's file, made on purpose.
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    sound = _fits(examples.inputs, examples.input_offsets) and _fits(
        examples.targets, examples.target_offsets
    )
    return (examples, extra) if sound else None


def _fits(flat: np.ndarray, offsets: np.ndarray) -> bool:
    """Whether the offsets cut the ids into rows of at least one token, and no id is negative."""
    return bool(
        offsets[0] == 0
        and offsets[-1] == len(flat)
        and (offsets[1:] > offsets[:-1]).all()
        and flat.min() >= 0
    )
