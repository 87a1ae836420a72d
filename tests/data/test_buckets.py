import itertools

import numpy as np
import pytest

from softprompt_jax.data import plan_buckets, plan_shapes


def tokens(lengths, edges):
    """Tokens with padding when each row goes to the next longer bucket."""
    edges = np.sort(edges)
    return int(edges[np.searchsorted(edges, lengths)].sum())


def shape_tokens(inputs, targets, shapes):
    return sum(
        min(sum(s) for s in shapes if s[0] >= i and s[1] >= t)
        for i, t in zip(inputs, targets, strict=True)
    )


def test_buckets_are_optimal():
    generator = np.random.default_rng(0)
    for _ in range(60):
        lengths = generator.integers(1, generator.integers(2, 25), generator.integers(1, 40))
        candidates = np.unique(lengths)
        for count in (1, 2, 3, 4):
            edges = plan_buckets(lengths, count)
            assert len(edges) <= count
            assert list(edges) == sorted(set(edges))
            assert edges[-1] == lengths.max()
            best = min(
                tokens(lengths, np.array([*chosen, candidates[-1]]))
                for chosen in itertools.combinations(
                    candidates[:-1], min(count, len(candidates)) - 1
                )
            )
            assert tokens(lengths, np.array(edges)) == best


def test_no_more_buckets_than_help():
    assert plan_buckets([5, 5, 5], 6) == (5,)
    assert plan_buckets([5, 9, 5], 6) == (5, 9)


def test_shapes_with_equal_targets_are_the_buckets():
    lengths = np.random.default_rng(1).integers(5, 80, 500)
    shapes = plan_shapes(lengths, np.full(500, 2), 6)
    assert shapes == tuple((edge, 2) for edge in plan_buckets(lengths, 6))


def test_shapes_hold_every_row_and_beat_one_target_length():
    generator = np.random.default_rng(2)
    for _ in range(20):
        n = int(generator.integers(1, 200))
        inputs = generator.integers(1, 60, n)
        targets = generator.geometric(0.1, n)
        for count in (1, 2, 4, 6):
            shapes = plan_shapes(inputs, targets, count)
            assert len(shapes) <= count
            assert shapes[-1].inputs == inputs.max()
            assert shapes[-1].targets == targets.max()
            single = [(edge, int(targets.max())) for edge in plan_buckets(inputs, count)]
            assert shape_tokens(inputs, targets, shapes) <= shape_tokens(inputs, targets, single)


def test_impossible_lengths_are_refused():
    for lengths in ([], [0, 3], [[1, 2]]):
        with pytest.raises(ValueError, match="at least 1"):
            plan_buckets(lengths)
