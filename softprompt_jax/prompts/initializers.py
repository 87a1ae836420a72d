"""How a prompt starts (Lester et al. 2021, section 3.2).

Every initialiser returns float32 `[length, d_model]`, whatever the model's dtype.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from softprompt_jax.data.tokenization import encode_targets, encode_texts
from softprompt_jax.errors import UserError
from softprompt_jax.models.language_model import LanguageModel

Vectors = Float[Array, "length d_model"]

FREQUENT = 5000  # the paper samples from the 5,000 most common tokens


def random_uniform(
    model: LanguageModel, length: int, key: jax.Array, value_range: tuple[float, float]
) -> Vectors:
    """Independent draws from U[low, high): the paper's range is [-0.5, 0.5).

    Raises:
        UserError: the range is empty.
    """
    low, high = value_range
    if not low < high:
        raise UserError(f"No number is at least {low} and below {high}; give the smaller first.")
    return jax.random.uniform(key, (length, model.d_model), jnp.float32, low, high)


def sampled_vocab(model: LanguageModel, length: int, key: jax.Array, vocab: str) -> Vectors:
    """Embeddings of ids drawn without replacement from part of the vocabulary.

    Args:
        model: whose embeddings are drawn.
        length: number of vectors.
        key: PRNG key.
        vocab: `frequent` (the 5,000 most frequent ids without special tokens), `first_5000` (ids 0
            to 4999, special tokens included, as in the released code) or `all` (the whole
            vocabulary without special tokens).

    Raises:
        UserError: an unknown part of the vocabulary.
    """
    if vocab not in ("frequent", "first_5000", "all"):
        raise UserError(f"There is no vocab {vocab!r}; choose frequent, first_5000 or all.")
    if vocab == "first_5000":
        pool = np.arange(min(FREQUENT, model.config.vocab_size), dtype=np.int32)
    else:
        pool = ordinary_ids(model, FREQUENT if vocab == "frequent" else None)
    # A byte-level vocabulary may hold fewer pieces than the prompt has positions.
    ids = jax.random.choice(key, jnp.asarray(pool), (length,), replace=length > len(pool))
    return embed(model, ids)


def ordinary_ids(model: LanguageModel, most: int | None) -> np.ndarray:
    """The most frequent ids that stand for text, in order of frequency, int32.

    Subword vocabularies are built most frequent first (SentencePiece sorts by probability, BPE by
    order of merging), so the order of ids is the order of frequency. Special tokens, pieces for
    single bytes (a SentencePiece vocabulary has them first, but they are its rarest), pieces that
    are no whole characters and rows past the tokenizer's vocabulary are left out.
    """
    tokenizer = model.tokenizer
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    size = min(model.config.vocab_size, len(tokenizer))
    ids = []
    for start in range(0, size, FREQUENT):
        block = [i for i in range(start, min(start + FREQUENT, size)) if i not in special]
        pieces = tokenizer.convert_ids_to_tokens(block)
        block = [
            i
            for i, piece in zip(block, pieces, strict=True)
            if not re.fullmatch("<0x[0-9A-F]{2}>", piece)
        ]
        texts = tokenizer.batch_decode([[i] for i in block], clean_up_tokenization_spaces=False)
        ids += [i for i, text in zip(block, texts, strict=True) if text and "\ufffd" not in text]
        if most is not None and len(ids) >= most:
            break
    return np.asarray(ids[:most], np.int32)


def class_labels(
    model: LanguageModel, length: int, key: jax.Array, vocab: str, labels: Sequence[str]
) -> Vectors:
    """One position a label (pieces averaged), the rest from the sampled vocabulary.

    Raises:
        UserError: there are no labels, or more than positions, or one has no tokens.
    """
    check_labels(length, labels)
    pieces = label_pieces(labels, model.tokenizer, model.config)
    rows = [jnp.mean(embed(model, ids), axis=0) for ids in pieces]
    rest = sampled_vocab(model, length - len(rows), key, vocab) if length > len(rows) else None
    stacked = jnp.stack(rows)
    return stacked if rest is None else jnp.concatenate([stacked, rest])


def check_labels(length: int, labels: Sequence[str]) -> None:
    """Refuses a `class_labels` start that cannot be, before a model is loaded.

    Raises:
        UserError: there are no labels, or more than positions.
    """
    if not labels:
        raise UserError(
            "class_labels needs a task with labels; choose --prompt.init sampled_vocab instead."
        )
    if len(labels) > length:
        raise UserError(
            f"A prompt of {length} positions cannot start from {len(labels)} labels; raise "
            "--prompt.length or choose --prompt.init sampled_vocab."
        )


def label_pieces(labels: Sequence[str], tokenizer: Any, config: Any) -> list[list[int]]:
    """The ids of each label.

    Args:
        labels: of a task.
        tokenizer: of the model.
        config: of the model.

    Raises:
        UserError: one has no tokens.
    """
    pieces = encode_targets(labels, tokenizer, config)
    for label, ids in zip(labels, pieces, strict=True):
        if not ids:
            raise UserError(f"The label {label!r} has no tokens; give it a text.")
    return pieces


def text(model: LanguageModel, length: int, content: str) -> Vectors:
    """Embeddings of a text's tokens without special tokens, tiled or cut to the length.

    Raises:
        UserError: the text has no tokens.
    """
    return embed(model, text_ids(content, length, model.tokenizer))


def text_ids(content: str, length: int, tokenizer: Any) -> Int[np.ndarray, " length"]:
    """The tokens of a text without special tokens, repeated or cut to a length, int32.

    Raises:
        UserError: the text has no tokens.
    """
    ids = encode_texts([content], tokenizer)[0]
    if not ids:
        raise UserError(f"The text {content!r} has no tokens; give one with words in it.")
    return np.resize(np.asarray(ids, np.int32), length)


def embed(model: LanguageModel, ids) -> Float[Array, "length d_model"]:
    """float32 embeddings of a list of ids."""
    return model.module.embed(jnp.asarray(ids, jnp.int32)[None])[0].astype(jnp.float32)
