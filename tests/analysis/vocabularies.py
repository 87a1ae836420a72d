"""Vocabularies without a model: any embedding, and a tokenizer of numbered words."""

from types import SimpleNamespace

import numpy as np

from softprompt_jax.analysis.vocabulary import Vocabulary


class Words:
    """As much of a tokenizer as token_texts needs: token i is the i-th word."""

    def __init__(self, words):
        self.words = list(words)

    def convert_ids_to_tokens(self, ids):
        return [self.words[i] for i in ids]

    def batch_decode(self, rows, clean_up_tokenization_spaces):
        return [self.words[i] for (i,) in rows]


def vocabulary(embedding, words=None, ids=None, name="made up"):
    count, width = embedding.shape
    return Vocabulary(
        name=name,
        fingerprint=f"of {name}",
        embedding=embedding,
        ids=np.arange(count, dtype=np.int32) if ids is None else np.asarray(ids, np.int32),
        tokenizer=Words(f"w{i}" for i in range(count)) if words is None else Words(words),
        config=SimpleNamespace(d_model=width),
    )


def random_vocabulary(count=50, width=8, seed=0, **more):
    values = np.random.default_rng(seed).normal(1.0, 2.0, (count, width))
    return vocabulary(values.astype(np.float32), **more)
