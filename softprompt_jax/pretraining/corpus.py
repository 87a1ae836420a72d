"""Plain text as one long array of token ids, kept on disk for the next run.

A document is tokenised line by line without special tokens, and ends with one EOS. (Before span
corruption t5 joins documents without EOS, by `reduce_concat_tokens`; its packed prefix LM, by
`targets_for_prefix_lm_objective`, has it.) The documents of all files are shuffled once, the same
way for every run, so that any part of the array is a sample of all sources.
"""

import contextlib
import hashlib
import os
import secrets
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from softprompt_jax.data.cache import cache_key, tokenizer_fingerprint
from softprompt_jax.data.token_files import parts_of, remove_unfinished, write_tokens
from softprompt_jax.data.tokenization import encode_texts
from softprompt_jax.errors import UserError
from softprompt_jax.pretraining.config import CorpusOptions
from softprompt_jax.tasks.tfds_source import TfdsSource

# After the magic line (24 bytes): the ids; the number of bytes an id has (8 bytes). Numbers are
# little-endian.
_MAGIC = b"softprompt-jax corpus 1\n"
_TRAILER_BYTES = 8

# Text that is tokenised at a time: the tokenizer takes some hundred bytes a token on the way.
_CHUNK_CHARACTERS = 2**20


def check_corpus(options: CorpusOptions) -> None:
    """Checks what can be told of the sources before anything is read.

    Raises:
        UserError: a file is missing, or tensorflow-datasets is not installed.
    """
    if options.tfds is not None:
        TfdsSource(options.tfds, options.data_dir).check()
    for file in (*options.train_files, *options.validation_files):
        if not Path(file).is_file():
            raise UserError(f"There is no text file {file}; correct its path.")


def read_corpus(
    options: CorpusOptions, split: str, tokenizer: Any, eos_id: int, folder: Path
) -> np.ndarray:
    """Tokenises a split of the corpus, or takes the tokens that an earlier run kept.

    Any number of processes may do so at once.

    Args:
        options: the sources.
        split: "train" or "validation".
        tokenizer: of the model, a transformers tokenizer.
        eos_id: the id that ends a document.
        folder: where tokens are kept; made if it is missing. They are taken again while texts,
            tokenizer and this module are the same, and made anew where their file is damaged.

    Returns:
        Ids `[n]`, uint16 where the tokenizer has few enough and else int32: a map of the file that
        cannot be written to.

    Raises:
        UserError: a source cannot be read or is not UTF-8, there is no text, or the folder cannot
            be written.
    """
    check_corpus(options)
    key = cache_key(
        sources=_fingerprints(options, split),
        tokenizer=tokenizer_fingerprint(tokenizer),
        eos=eos_id,
        code=hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
    )
    path = folder / f"{key}.corpus"
    if (tokens := _load(path)) is not None:
        return tokens
    dtype = np.dtype("<u2" if len(tokenizer) <= 2**16 else "<i4")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_unfinished(folder, ".*.corpus*.tmp")
        part = f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}"
        in_order, shuffled = folder / f"{part}.order.tmp", folder / f"{part}.tmp"
        try:
            parts = _tokenize(_lines(options, split), tokenizer, eos_id)
            offsets = _write_in_order(in_order, parts, dtype)
            if len(offsets) == 1:
                raise UserError(
                    f"There is no text in {_names(options, split)}; name another source."
                )
            in_file = np.memmap(in_order, dtype, mode="r")
            write_tokens(shuffled, _MAGIC, _shuffled(in_file, offsets))
            os.replace(shuffled, path)
        finally:
            in_order.unlink(missing_ok=True)
            shuffled.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"The tokens cannot be kept in {folder} ({error.strerror}); make room there or choose "
            "another folder."
        ) from None
    if (tokens := _load(path)) is None:
        raise UserError(f"{path} does not hold what was written to it; check the disk.")
    return tokens


def _files(options: CorpusOptions, split: str) -> tuple[str, ...]:
    return {"train": options.train_files, "validation": options.validation_files}[split]


def _tfds_split(options: CorpusOptions, split: str) -> str:
    return {"train": options.tfds_split}.get(split, split)


def _names(options: CorpusOptions, split: str) -> str:
    if options.tfds is not None:
        return f"the split {_tfds_split(options, split)} of {options.tfds}"
    return " and ".join(_files(options, split))


def _fingerprints(options: CorpusOptions, split: str) -> list[str]:
    if options.tfds is not None:
        source = TfdsSource(options.tfds, options.data_dir)
        return [source.fingerprint(_tfds_split(options, split))]
    digests = []
    for name in _files(options, split):
        with _readable(name), open(name, "rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    return digests


@contextlib.contextmanager
def _readable(name: str) -> Iterator[None]:
    """Tells which text file it is that cannot be read within."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"The text file {name} cannot be read ({error.strerror}); make it readable."
        ) from None
    except UnicodeDecodeError:
        raise UserError(f"The text file {name} is not UTF-8; convert it.") from None


def _lines(options: CorpusOptions, split: str) -> Iterator[str | None]:
    """The lines of each document that are not blank, and None after each document."""
    if options.tfds is None:
        for name in _files(options, split):
            within = False
            with _readable(name), open(name, encoding="utf-8-sig") as file:
                for line in map(str.strip, file):
                    if line or within:
                        yield line or None
                    within = bool(line)
            if within:
                yield None
        return
    for example in TfdsSource(options.tfds, options.data_dir).split(_tfds_split(options, split)):
        if not isinstance(example.get("text"), str):
            raise UserError(
                f'The examples of {options.tfds} have no "text", but {", ".join(example)}; choose '
                "another data set."
            )
        lines = [line for line in map(str.strip, example["text"].splitlines()) if line]
        yield from lines
        if lines:
            yield None


def _tokenize(
    lines: Iterable[str | None], tokenizer: Any, eos_id: int
) -> Iterator[tuple[list[int], list[int]]]:
    """Ids, many documents at a time, and where documents end, counted from the first id of all."""
    total = 0
    for batch in _batched(lines):
        rows = iter(encode_texts([line for line in batch if line is not None], tokenizer))
        ids, ends = [], []
        for line in batch:
            if line is None:
                ids.append(eos_id)
                ends.append(total + len(ids))
            else:
                ids += next(rows)
        total += len(ids)
        yield ids, ends


def _batched(lines: Iterable[str | None]) -> Iterator[list[str | None]]:
    batch, characters = [], 0
    for line in lines:
        batch.append(line)
        characters += len(line or "")
        if characters >= _CHUNK_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _write_in_order(
    path: Path, parts: Iterable[tuple[list[int], list[int]]], dtype: np.dtype
) -> np.ndarray:
    """Writes ids as they come; returns where documents start and where the last one ends."""
    offsets = array("q", [0])
    with path.open("xb") as file:
        for ids, ends in parts:
            file.write(np.array(ids, dtype).tobytes())
            offsets.extend(ends)
    return np.array(offsets)


def _shuffled(tokens: np.ndarray, offsets: np.ndarray) -> Iterator[bytes]:
    for document in np.random.default_rng(0).permutation(len(offsets) - 1):
        yield tokens[offsets[document] : offsets[document + 1]].tobytes()
    yield tokens.itemsize.to_bytes(_TRAILER_BYTES, "little")


def _load(path: Path) -> np.ndarray | None:
    """The ids of a file; None where there is none, or its content is not what was written."""
    try:
        content = np.memmap(path, np.uint8, mode="r")
    except (FileNotFoundError, NotADirectoryError, ValueError):  # the last one: it is empty
        return None
    except OSError as error:
        raise UserError(
            f"The kept tokens {path} cannot be read ({error.strerror}); remove them."
        ) from None
    body = parts_of(content, _MAGIC)
    if body is None:
        return None
    itemsize = int.from_bytes(body[-_TRAILER_BYTES:].tobytes(), "little")
    return body[:-_TRAILER_BYTES].view("<u2" if itemsize == 2 else "<i4")
