from collections import Counter, defaultdict

import numpy as np
import pytest

from softprompt_jax.pretraining.ngrams import NGrams

SIZE = 7
TEXT = np.random.default_rng(0).choice(SIZE - 1, 300, p=[0.4, 0.25, 0.15, 0.1, 0.06, 0.04])


@pytest.fixture(scope="module")
def model():
    return NGrams(TEXT.astype(np.uint16), SIZE)


def kneser_ney(history, token):
    """The published rule, by loops (Chen and Goodman 1999, equation 27)."""
    trigrams = Counter(zip(TEXT[:-2], TEXT[1:-1], TEXT[2:], strict=True))
    followers = defaultdict(set)  # which tokens came before an n-gram
    for a, b, c in trigrams:
        followers[b, c].add(a)
    before = defaultdict(set)
    for b, c in followers:
        before[c].add(b)

    def unigram(c):
        total = sum(len(x) for x in before.values())
        left = sum(min(len(x), 0.75) for x in before.values())
        return (max(len(before.get(c, ())) - 0.75, 0) + left / SIZE) / total

    def bigram(b, c):
        known = {k: len(v) for k, v in followers.items() if k[0] == b}
        if not known:
            return unigram(c)
        total = sum(known.values())
        mass = 0.75 * len(known) * unigram(c)
        return (max(known.get((b, c), 0) - 0.75, 0) + mass) / total

    a, b = history
    known = {k: v for k, v in trigrams.items() if k[:2] == (a, b)}
    if not known:
        return bigram(b, token)
    mass = 0.75 * len(known) * bigram(b, token)
    return (max(known.get((a, b, token), 0) - 0.75, 0) + mass) / sum(known.values())


def test_the_published_rule(model):
    test = np.random.default_rng(1).integers(0, SIZE, 80)  # token 6 was never seen
    expected = [np.log(kneser_ney(tuple(test[i : i + 2]), test[i + 2])) for i in range(78)]
    np.testing.assert_allclose(model.trigram_log_probs(test), expected, rtol=1e-9)


@pytest.mark.parametrize("history", [(0, 1), (5, 5), (6, 0), (0, 6), (6, 6)])
def test_probabilities_sum_to_one(model, history):
    texts = [np.array([*history, token]) for token in range(SIZE)]
    assert sum(np.exp(model.trigram_log_probs(text)[0]) for text in texts) == pytest.approx(1)


def test_unigrams(model):
    probabilities = np.exp(model.unigram_log_probs(np.arange(SIZE)))
    assert probabilities.sum() == pytest.approx(1)
    assert probabilities[0] == pytest.approx(((TEXT == 0).sum() + 1) / (300 + SIZE))
    assert probabilities[6] == pytest.approx(1 / (300 + SIZE))
