"""Bucketing, batches and mixtures of any examples, against brute force and plain loops."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from softprompt_jax.data import (
    BatchStream,
    Mixing,
    TokenizedExamples,
    concatenate,
    evaluation_batches,
    limited_rates,
    padding_share,
    plan_buckets,
    plan_shapes,
)

# Input and target lengths of a split's rows, few different ones, so that ties are common.
SPLITS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 4)), min_size=1, max_size=24)
SEEDS = st.integers(0, 3)


def make(lengths):
    """Examples of these lengths in which no id comes twice, and their rows as lists."""
    ids = itertools.count(1)
    inputs = [[next(ids) for _ in range(n)] for n, _ in lengths]
    targets = [[next(ids) for _ in range(n)] for _, n in lengths]
    return TokenizedExamples.from_rows(inputs, targets), inputs, targets


def least_tokens(lengths, count):
    """Fewest tokens with padding of one column of lengths in so many buckets at most."""
    candidates = sorted(set(lengths))
    return min(
        sum(min(edge for edge in (*chosen, candidates[-1]) if edge >= n) for n in lengths)
        for k in range(min(count, len(candidates)))
        for chosen in itertools.combinations(candidates[:-1], k)
    )


def smallest(shapes, inputs, targets):
    """Tokens of the smallest shape that holds a row."""
    return min(sum(shape) for shape in shapes if shape[0] >= inputs and shape[1] >= targets)


@repeatable(200)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=14), st.integers(1, 4))
def test_buckets_pad_least(lengths, count):
    edges = plan_buckets(lengths, count)
    assert len(edges) <= count
    assert list(edges) == sorted(set(edges))
    assert edges[-1] == max(lengths)
    padded = sum(min(edge for edge in edges if edge >= n) for n in lengths)
    assert padded == least_tokens(lengths, count)
    # No bucket is for nothing: with one fewer, more would be padded.
    assert len(edges) == 1 or least_tokens(lengths, len(edges) - 1) > padded


def least_of_groups(lengths, count):
    """Fewest tokens of target groups that each have buckets of input lengths.

    The groups are those that pad targets least; how many, and how many buckets each has, is free.
    """
    longest = max(n for n, _ in lengths)
    best = []
    for groups in range(1, count + 1):
        edges = plan_buckets([t for _, t in lengths], groups)
        members = [
            [n for n, t in lengths if low < t <= edge]
            for low, edge in itertools.pairwise((0, *edges))
        ]
        options = []
        for g, own in enumerate(members):
            # A phantom row that counts for nothing: the last group's buckets hold the longest.
            top = longest if g == len(edges) - 1 else max(own)
            candidates = sorted({*own, top})
            options.append(
                [
                    (
                        k + 1,
                        sum(min(e for e in (*chosen, top) if e >= n) + edges[g] for n in own),
                    )
                    for k in range(min(count, len(candidates)))
                    for chosen in itertools.combinations(candidates[:-1], k)
                ]
            )
        best += [
            sum(cost for _, cost in plan)
            for plan in itertools.product(*options)
            if sum(k for k, _ in plan) <= count
        ]
    return min(best)


@repeatable(200)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=8),
    st.integers(2, 3),
)
def test_shapes_pad_least_among_groups_of_targets(lengths, count):
    inputs, targets = zip(*lengths, strict=True)
    shapes = plan_shapes(inputs, targets, count)
    assert 1 <= len(shapes) <= count
    assert len(set(shapes)) == len(shapes)
    assert shapes[-1] == (max(inputs), max(targets))
    assert [sum(shape) for shape in shapes] == sorted(sum(shape) for shape in shapes)
    padded = sum(smallest(shapes, *row) for row in lengths)
    # A row may even fit a smaller shape, of another group, than the one it was planned for.
    assert padded <= least_of_groups(lengths, count)
    if len(set(targets)) == 1:
        assert padded == least_tokens(inputs, count) + sum(targets)


@repeatable(150)
@given(SPLITS, st.integers(1, 7), st.integers(1, 4), SEEDS)
def test_an_epoch_has_every_example_once(lengths, batch_size, max_shapes, seed):
    examples, inputs, targets = make(lengths)
    n = len(lengths)
    shapes = plan_shapes(*zip(*lengths, strict=True), max_shapes)
    stream = BatchStream(examples, shapes, batch_size, seed)
    for epoch in range(2):
        seen, moved = Counter(), 0
        for index in range(stream.batches_per_epoch):
            shape, rows = stream.rows(epoch * stream.batches_per_epoch + index)
            batch = next(stream)
            assert batch["inputs"].shape == (batch_size, shape[0])
            assert batch["targets"].shape == (batch_size, shape[1])
            seen.update(rows.tolist())
            for place, row in enumerate(rows):
                for name, own in (("input", inputs[row]), ("target", targets[row])):
                    mask = batch[f"{name}_mask"][place]
                    assert mask.tolist() == [column < len(own) for column in range(len(mask))]
                    assert batch[f"{name}s"][place][: len(own)].tolist() == own
                    assert not batch[f"{name}s"][place][len(own) :].any()
                moved += sum(shape) > smallest(shapes, *lengths[row])
        assert set(seen) <= set(range(n))
        if n >= batch_size:
            assert set(seen.values()) == {1}
            assert n - len(seen) == n % batch_size
        else:
            assert len(seen) == n
            assert max(seen.values()) - min(seen.values()) <= 1
        # Only what was left over of a shape is padded to more than it needs.
        assert moved <= (batch_size - 1) * (len(shapes) - 1)


@repeatable(100)
@given(SPLITS, st.integers(1, 7), st.integers(1, 4), SEEDS, st.data())
def test_a_stream_goes_on_from_any_position(lengths, batch_size, max_shapes, seed, data):
    examples, _, _ = make(lengths)
    shapes = plan_shapes(*zip(*lengths, strict=True), max_shapes)
    mixing = None
    if data.draw(st.booleans()):
        first = data.draw(st.integers(1, len(lengths)))
        counts = (first, len(lengths) - first) if first < len(lengths) else (first,)
        rates = data.draw(st.none() | st.tuples(*[st.floats(0.1, 9)] * len(counts)))
        mixing = Mixing(counts, rates)
    whole = BatchStream(examples, shapes, batch_size, seed, mixing=mixing)
    batches = [next(whole) for _ in range(2 * whole.batches_per_epoch + 1)]
    position = data.draw(st.integers(0, len(batches) - 1))
    own = data.draw(st.permutations(range(batch_size)))[: data.draw(st.integers(1, batch_size))]
    later = BatchStream(
        examples,
        shapes,
        batch_size,
        seed,
        mixing=mixing,
        position=position,
        own=np.array(own),
    )
    for at, batch in enumerate(batches[position:], start=position):
        # Tokens are counted over all rows, whichever of them a process makes.
        masks = batch["input_mask"], batch["target_mask"]
        real, total = sum(int(m.sum()) for m in masks), sum(m.size for m in masks)
        assert later.tokens(at) == (real, total)
        again = next(later)
        assert again.keys() == batch.keys()
        for name in batch:
            np.testing.assert_array_equal(again[name], batch[name][own])
    assert later.position == whole.position == len(batches)


@repeatable(100)
@given(SPLITS, st.integers(1, 7), st.integers(1, 4))
def test_evaluation_sees_every_example_once_in_its_smallest_shape(lengths, batch_size, max_shapes):
    examples, inputs, targets = make(lengths)
    shapes = plan_shapes(*zip(*lengths, strict=True), max_shapes)
    seen = []
    for batch, rows in evaluation_batches(examples, shapes, batch_size):
        assert len(rows) == batch_size
        shape = batch["inputs"].shape[1], batch["targets"].shape[1]
        for place, row in enumerate(rows):
            real = batch["input_mask"][place], batch["target_mask"][place]
            if row < 0:
                assert real[0].sum() == 1
                assert real[1].sum() == 0
                continue
            seen.append(int(row))
            assert batch["inputs"][place][real[0]].tolist() == inputs[row]
            assert batch["targets"][place][real[1]].tolist() == targets[row]
            assert sum(shape) == smallest(shapes, *lengths[row])
        assert (rows >= 0).any()
    assert sorted(seen) == list(range(len(lengths)))


@repeatable(60)
@given(SPLITS, st.integers(1, 7), st.integers(1, 4), SEEDS)
def test_padding_share_counts_the_first_epoch(lengths, batch_size, max_shapes, seed):
    examples, _, _ = make(lengths)
    shapes = plan_shapes(*zip(*lengths, strict=True), max_shapes)
    stream = BatchStream(examples, shapes, batch_size, seed)
    masks = []
    for _ in range(stream.batches_per_epoch):
        batch = next(stream)
        masks += [*batch["input_mask"].flat, *batch["target_mask"].flat]
    share = padding_share(examples, shapes, batch_size, seed)
    assert share == pytest.approx(1 - sum(masks) / len(masks), abs=1e-12)


TASKS = st.lists(st.tuples(st.integers(1, 9), st.floats(0.05, 20)), min_size=1, max_size=4)


@repeatable(120)
@given(TASKS, SEEDS, st.booleans())
def test_mixtures(tasks, seed, with_rates):
    counts, rates = zip(*tasks, strict=True)
    mixing = Mixing(counts, rates if with_rates else None)
    owner = [task for task, count in enumerate(counts) for _ in range(count)]
    seen = Counter()
    for epoch in range(4):
        rows = mixing.epoch(np.random.default_rng([seed, epoch]), seed, epoch)
        assert len(rows) == mixing.rows_per_epoch
        assert mixing.prompt_ids(rows).tolist() == [owner[row] for row in rows]
        seen.update(rows.tolist())
        shares = Counter(owner[row] for row in rows)
        for task, (count, rate) in enumerate(tasks):
            exact = sum(counts) * rate / sum(rates) if with_rates else count
            assert abs(shares[task] - exact) <= 0.5 + 1e-9 or (shares[task] == 1 and exact < 1)
            # A task goes through its examples pass by pass.
            times = [seen[row] for row, of in enumerate(owner) if of == task]
            assert max(times) - min(times) <= 1
        # The generator draws the order; with rates, the rows are a function of seed and epoch.
        other = mixing.epoch(np.random.default_rng(99), seed, epoch)
        assert sorted(other) == sorted(rows)
    assert mixing.prompt_ids(np.array([-1])).tolist() == [0]


@repeatable(60)
@given(st.lists(SPLITS, min_size=1, max_size=3), st.data())
def test_concatenated_examples(splits, data):
    parts, rows = [], []
    for lengths in splits:
        examples, inputs, targets = make(lengths)
        first = data.draw(st.integers(1, len(lengths)))
        parts.append(examples.first(first))
        rows += list(zip(inputs, targets, strict=True))[:first]
    whole = concatenate(parts)
    assert len(whole) == len(rows)
    for i, (own_input, own_target) in enumerate(rows):
        start, end = whole.input_offsets[i : i + 2]
        assert whole.inputs[start:end].tolist() == own_input
        start, end = whole.target_offsets[i : i + 2]
        assert whole.targets[start:end].tolist() == own_target


@repeatable(60)
@given(st.lists(st.integers(1, 10**6), min_size=1, max_size=6), st.integers(1, 10**6))
def test_limited_rates(counts, limit):
    rates = limited_rates(counts, limit)
    for count, rate in zip(counts, rates, strict=True):
        assert rate == count if count <= limit else rate == limit
