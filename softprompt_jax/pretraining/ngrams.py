"""Unigram and trigram models of token ids: what a pre-trained model has to be better than."""

import numpy as np

_DISCOUNT = 0.75  # Kneser-Ney's, the usual value


class NGrams:
    """Counts of a text, and the probabilities that follow from them.

    The unigram model is add-one smoothed; the trigram model is interpolated Kneser-Ney, in which
    what a shorter context predicts is counted by how many different contexts it was seen in.

    Args:
        tokens: ids of the text, `[n]`, n >= 3.
        vocab_size: ids are smaller; at most 2**21.

    References:
        Chen and Goodman 1999, "An empirical study of smoothing techniques for language modeling",
        section 2.8.
    """

    def __init__(self, tokens: np.ndarray, vocab_size: int):
        ids = np.asarray(tokens).astype(np.int64)
        self._size = vocab_size
        self._unigrams = np.bincount(ids, minlength=vocab_size)
        trigrams, counts = np.unique(self._keys(ids[:-2], ids[1:-1], ids[2:]), return_counts=True)
        self._trigrams = _Context(trigrams, counts, vocab_size)
        # Of Kneser-Ney's shorter contexts: each different trigram counts once, then each bigram.
        bigrams, continuations = np.unique(trigrams % vocab_size**2, return_counts=True)
        self._bigrams = _Context(bigrams, continuations, vocab_size)
        self._last = np.bincount(bigrams % vocab_size, minlength=vocab_size)

    def unigram_log_probs(self, tokens: np.ndarray) -> np.ndarray:
        """Log-probability of each token, in nats, whatever its context.

        Args:
            tokens: ids, of any shape.
        """
        counts = self._unigrams[np.asarray(tokens)] + 1
        return np.log(counts / (self._unigrams.sum() + self._size))

    def trigram_log_probs(self, tokens: np.ndarray) -> np.ndarray:
        """Log-probability of each token after the two before it, in nats.

        Args:
            tokens: ids `[n]`, n >= 3.

        Returns:
            float64 `[n - 2]`: the first two tokens are context only.
        """
        ids = np.asarray(tokens).astype(np.int64)
        two, one, token = ids[:-2], ids[1:-1], ids[2:]
        # A token that was never seen shares what the discount leaves of the unigrams.
        seen = np.maximum(self._last - _DISCOUNT, 0.0)
        left = self._last.sum() - seen.sum()
        unigram = (seen[token] + left / self._size) / self._last.sum()
        bigram = self._bigrams.interpolated(self._keys(one, token), unigram)
        return np.log(self._trigrams.interpolated(self._keys(two, one, token), bigram))

    def _keys(self, *parts: np.ndarray) -> np.ndarray:
        """One number for the tokens of an n-gram."""
        keys = np.zeros_like(parts[0])
        for part in parts:
            keys = keys * self._size + part
        return keys


class _Context:
    """Counts of n-grams, and of the contexts that their last tokens follow."""

    def __init__(self, keys: np.ndarray, counts: np.ndarray, vocab_size: int):
        self._keys, self._counts = keys, counts
        self._size = vocab_size
        # Keys are sorted, so n-grams of one context stand together.
        self._contexts, first = np.unique(keys // vocab_size, return_index=True)
        self._totals = np.add.reduceat(counts, first)
        self._kinds = np.diff(np.append(first, len(keys)))

    def interpolated(self, keys: np.ndarray, shorter: np.ndarray) -> np.ndarray:
        """Probabilities of n-grams' last tokens, given what the shorter context says of them."""
        count = _find(self._keys, self._counts, keys)
        total = _find(self._contexts, self._totals, keys // self._size)
        kinds = _find(self._contexts, self._kinds, keys // self._size)
        known = np.maximum(total, 1)
        discounted = np.maximum(count - _DISCOUNT, 0.0) + _DISCOUNT * kinds * shorter
        return np.where(total > 0, discounted / known, shorter)


def _find(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of wanted keys; 0 for those that are not there."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
