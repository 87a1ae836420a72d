import itertools
from collections import Counter

import numpy as np
import pytest

from softprompt_jax.data import (
    BatchStream,
    assemble_batch,
    evaluation_batches,
    padding_share,
    plan_shapes,
)


def random_examples(make_examples, generator):
    n = int(generator.integers(1, 120))
    inputs = generator.integers(1, 40, n)
    targets = generator.integers(1, 9, n)
    return make_examples(inputs, targets), plan_shapes(
        inputs, targets, int(generator.integers(1, 7))
    )


def check_rows(batch, rows, examples):
    for b, i in enumerate(rows):
        for name in ("input", "target"):
            flat, offsets = getattr(examples, f"{name}s"), getattr(examples, f"{name}_offsets")
            ids = flat[offsets[i] : offsets[i + 1]]
            mask = batch[f"{name}_mask"][b]
            assert mask.sum() == len(ids)
            assert mask[: len(ids)].all()  # padded on the right
            assert (batch[f"{name}s"][b][: len(ids)] == ids).all()
            assert (batch[f"{name}s"][b][len(ids) :] == 0).all()


def test_layout(make_examples):
    examples = make_examples([3, 1, 2], [1, 2, 1])
    batch = assemble_batch(examples, np.array([2, 0, -1]), (4, 2))
    check_rows(batch, [2, 0], examples)
    assert {key: (value.dtype, value.shape) for key, value in batch.items()} == {
        "inputs": (np.int32, (3, 4)),
        "input_mask": (np.bool_, (3, 4)),
        "targets": (np.int32, (3, 2)),
        "target_mask": (np.bool_, (3, 2)),
        "prompt_ids": (np.int32, (3,)),
    }
    assert batch["input_mask"][2].tolist() == [True, False, False, False]
    assert batch["inputs"][2, 0] == examples.inputs[0]
    assert not batch["target_mask"][2].any()
    assert not batch["prompt_ids"].any()


def test_epochs(make_examples):
    """Each epoch: full batches of known shapes, no row twice, less than a batch of rows missing."""
    generator = np.random.default_rng(0)
    for _ in range(40):
        examples, shapes = random_examples(make_examples, generator)
        size = int(generator.integers(1, 20))
        stream = BatchStream(examples, shapes, size, seed=3)
        n = len(examples)
        assert stream.batches_per_epoch == max(1, n // size)
        for epoch in range(3):
            seen = Counter()
            for index in range(stream.batches_per_epoch):
                position = epoch * stream.batches_per_epoch + index
                assert stream.position == position
                shape, rows = stream.rows(position)
                batch = next(stream)
                assert batch["inputs"].shape == (size, shape.inputs)
                assert batch["targets"].shape == (size, shape.targets)
                assert shape in shapes
                check_rows(batch, rows, examples)
                seen.update(rows.tolist())
            if n >= size:
                assert max(seen.values()) == 1
                assert n - len(seen) < size
            else:
                assert set(seen) == set(range(n))
                assert max(seen.values()) - min(seen.values()) <= 1


def test_position_is_the_whole_state(make_examples):
    generator = np.random.default_rng(1)
    examples, shapes = make_examples(generator.integers(1, 30, 50), np.full(50, 2)), None
    shapes = plan_shapes(examples.input_lengths, examples.target_lengths, 3)
    stream = BatchStream(examples, shapes, 4, seed=7)
    batches = [next(stream) for _ in range(40)]
    for position in (0, 1, 11, 12, 13, 25, 39):
        resumed = BatchStream(examples, shapes, 4, seed=7, position=position)
        for expected, batch in zip(batches[position:], resumed, strict=False):
            for key in expected:
                np.testing.assert_array_equal(batch[key], expected[key])
    assert stream.position == 40


def test_order_depends_on_seed_and_epoch(make_examples):
    examples = make_examples(np.full(64, 3), np.full(64, 1))
    shapes = [(3, 1)]

    def order(seed, epoch):
        stream = BatchStream(examples, shapes, 8, seed)
        return np.concatenate([stream.rows(epoch * 8 + i)[1] for i in range(8)]).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 1) != order(1, 0)


def test_batches_of_one_shape_do_not_come_in_a_row(make_examples):
    examples = make_examples(np.repeat([2, 20], 320), np.full(640, 1))
    stream = BatchStream(examples, [(2, 1), (20, 1)], 16, seed=0)
    widths = [next(stream)["inputs"].shape[1] for _ in range(40)]
    assert sum(a != b for a, b in itertools.pairwise(widths)) > 10


def test_leftovers_join_the_next_larger_shape(make_examples):
    examples = make_examples([1] * 5 + [4] * 3, [1] * 8)
    stream = BatchStream(examples, [(1, 1), (4, 1)], 4, seed=0)
    assert sorted(next(stream)["inputs"].shape[1] for _ in range(2)) == [1, 4]


def test_evaluation_sees_every_row_once(make_examples):
    generator = np.random.default_rng(2)
    for _ in range(40):
        examples, shapes = random_examples(make_examples, generator)
        size = int(generator.integers(1, 20))
        seen = []
        for batch, indexes in evaluation_batches(examples, shapes, size):
            assert len(indexes) == size
            real = indexes >= 0
            assert real.any()
            check_rows({k: v[real] for k, v in batch.items()}, indexes[real], examples)
            assert (batch["input_mask"].sum(axis=1) >= 1).all()
            assert not batch["target_mask"][~real].any()
            seen += indexes[real].tolist()
        assert sorted(seen) == list(range(len(examples)))


def test_padding_share(make_examples):
    examples = make_examples([1, 1, 3, 3], [1, 1, 1, 1])
    assert padding_share(examples, [(1, 1), (3, 1)], 2) == 0
    assert padding_share(examples, [(3, 1)], 2) == pytest.approx(1 - 12 / 16)


def test_shapes_too_small_are_refused(make_examples):
    with pytest.raises(ValueError, match="row 1 with 5"):
        BatchStream(make_examples([1, 5], [1, 1]), [(4, 1)], 2, seed=0)
    with pytest.raises(ValueError, match="leftovers"):
        BatchStream(make_examples([1, 5], [4, 1]), [(1, 4), (5, 1)], 2, seed=0)


@pytest.mark.parametrize("parts", [2, 3])
def test_processes_assemble_their_own_rows_only(make_examples, parts):
    generator = np.random.default_rng(4)
    examples, shapes = random_examples(make_examples, generator)
    size = 6
    owns = [np.arange(size)[part::parts] for part in range(parts)]
    whole = BatchStream(examples, shapes, size, seed=5, position=3)
    streams = [BatchStream(examples, shapes, size, seed=5, position=3, own=own) for own in owns]
    for _ in range(10):
        expected = next(whole)
        for own, stream in zip(owns, streams, strict=True):
            batch = next(stream)
            for key, values in expected.items():
                np.testing.assert_array_equal(batch[key], values[own])
    for own in owns:
        pairs = zip(
            evaluation_batches(examples, shapes, size),
            evaluation_batches(examples, shapes, size, own),
            strict=True,
        )
        for (expected, indexes), (batch, own_indexes) in pairs:
            np.testing.assert_array_equal(own_indexes, indexes)  # of the whole batch
            for key, values in expected.items():
                np.testing.assert_array_equal(batch[key], values[own])


def test_tokens_are_counted_over_the_whole_batch(make_examples):
    examples = make_examples([1, 2, 3, 4], [1, 1, 2, 2])
    stream = BatchStream(examples, [(4, 2)], 4, seed=0, own=np.array([1]))
    assert stream.tokens(0) == (16, 24)
    assert stream.position == 0
