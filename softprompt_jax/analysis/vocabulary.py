"""A model's vocabulary as analyses see it: its vectors on the host, its tokens as text."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from softprompt_jax.models import LanguageModel
from softprompt_jax.prompts.initializers import ordinary_ids

_BLOCK_ELEMENTS = 4 << 20  # 16 MB of float32: what is looked at in one go


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The tokens that a prompt's vectors are compared with.

    Attributes:
        name: of the model.
        fingerprint: of its weights.
        embedding: `[vocab_size, d_model]` on the host, in the dtype of the model.
        ids: int32 `[n]`, ascending: the rows that are tokens.
        tokenizer: of the model.
        config: of the model.
    """

    name: str
    fingerprint: str
    embedding: np.ndarray
    ids: np.ndarray
    tokenizer: Any
    config: Any

    @staticmethod
    def of(model: LanguageModel, special: bool = True) -> "Vocabulary":
        """The vocabulary of a model. Rows past the tokenizer's vocabulary are never in it.

        Args:
            model: loaded.
            special: False leaves out special tokens, single bytes and pieces that are no whole
                characters.
        """
        size = min(model.config.vocab_size, len(model.tokenizer))
        ids = np.arange(size, dtype=np.int32) if special else np.sort(ordinary_ids(model, None))
        # On CPU this is the model's own memory, not a copy.
        embedding = np.asarray(model.module.embedding[...])
        return Vocabulary(
            model.name, model.fingerprint, embedding, ids, model.tokenizer, model.config
        )

    def rows(self, ids: Sequence[int] | np.ndarray) -> Float[np.ndarray, "n d_model"]:
        """float32 embeddings of some ids."""
        return self.embedding[np.asarray(ids)].astype(np.float32)

    def blocks(self, queries: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Goes through the tokens in blocks of some megabytes.

        Args:
            queries: number of vectors that each block is to be compared with.

        Yields:
            ids `[b]` and their float32 embeddings `[b, d_model]`.
        """
        size = max(1, _BLOCK_ELEMENTS // max(queries, self.embedding.shape[1]))
        for start in range(0, len(self.ids), size):
            ids = self.ids[start : start + size]
            yield ids, self.rows(ids)

    def mean_norm(self) -> float:
        """Mean Euclidean length of the tokens' embeddings."""
        norms = [np.linalg.norm(rows, axis=1) for _, rows in self.blocks(1)]
        return float(np.concatenate(norms).astype(np.float64).mean())

    def texts(self, ids: Sequence[int] | np.ndarray) -> list[str]:
        """Each token as text, with the space before it where it has one."""
        return token_texts(self.tokenizer, ids)


def token_texts(tokenizer: Any, ids: Sequence[int] | np.ndarray) -> list[str]:
    """Tokens as text, each alone: " cat", "ing", "</s>".

    Tokens that are no text of their own (bytes, parts of a character) have the tokenizer's name for
    them.
    """
    plain = [int(i) for i in ids]
    names = tokenizer.convert_ids_to_tokens(plain)
    decoded = tokenizer.batch_decode([[i] for i in plain], clean_up_tokenization_spaces=False)
    texts = []
    for name, text in zip(names, decoded, strict=True):
        if name.startswith("▁"):  # SentencePiece drops the space of a piece that is decoded alone
            texts.append(name.replace("▁", " "))
        elif not text or "\ufffd" in text:
            texts.append(name)
        else:
            texts.append(text)
    return texts


def unit(vectors: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """float32 vectors of length 1; a vector of zeros, which has no direction, stays one."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    norms = np.where(norms > 0, norms, 1.0).astype(vectors.dtype)
    return (vectors / norms[:, None]).astype(np.float32, copy=False)
