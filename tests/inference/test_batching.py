import numpy as np
import pytest

from softprompt_jax.inference.batching import batch_rows, pad_choices, padded_length


def test_lengths_recur_and_waste_little():
    lengths = sorted({padded_length(n) for n in range(1, 513)})
    assert lengths[:15] == [4, 8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112]
    assert len(lengths) == 24
    for n in range(1, 2000):
        padded = padded_length(n)
        assert padded >= n
        assert padded - n < 4 or (padded - n) / padded < 0.2
        assert padded_length(padded) == padded
    assert padded_length(1000, longest=1010) == 1010
    assert padded_length(900, longest=1010) == 1010


@pytest.mark.parametrize("multiple", [1, 8])
def test_every_row_comes_once(multiple):
    generator = np.random.default_rng(0)
    for _ in range(50):
        count, size = int(generator.integers(1, 60)), int(generator.integers(1, 20))
        rows = [generator.integers(1, 99, generator.integers(1, 70)).tolist() for _ in range(count)]
        seen = []
        sizes = set()
        for ids, mask, index in batch_rows(rows, size, multiple):
            assert ids.shape == mask.shape
            assert ids.dtype == np.int32
            assert len(index) == len(ids)
            assert len(index) % multiple == 0
            sizes.add(len(index))
            for i, own_ids, own_mask in zip(index, ids, mask, strict=True):
                if i < 0:
                    assert not own_mask.any()
                    continue
                seen.append(i)
                assert own_ids[own_mask].tolist() == rows[i]
                assert own_mask[: len(rows[i])].all()
        assert sorted(seen) == list(range(count))
        assert len(sizes) == 1  # one number of rows a call: each is compiled


def test_few_rows_are_a_small_batch_and_leftovers_join_the_next_length():
    sizes = [len(index) for _, _, index in batch_rows([[1] * 3] * 3, 16)]
    assert sizes == [4]
    assert [len(index) for _, _, index in batch_rows([[1] * 3] * 9, 12)] == [12]
    rows = [[1] * 20] * 3 + [[1] * 24] * 3 + [[1] * 200] * 2
    batches = [(ids.shape, (index >= 0).sum()) for ids, _, index in batch_rows(rows, 4)]
    # 3 + 1 of the next length would be a batch; 200 is too far for what is left over.
    assert batches == [((4, 24), 4), ((4, 24), 2), ((4, 224), 2)]


def test_choices_are_padded_with_empty_ones():
    ids, mask = pad_choices([[[5], [6, 7]], [[8, 9, 10]]])
    assert ids.tolist() == [[[5, 0, 0, 0], [6, 7, 0, 0]], [[8, 9, 10, 0], [0, 0, 0, 0]]]
    assert mask.sum(axis=(1, 2)).tolist() == [3, 3]
    assert ids[mask].tolist() == [5, 6, 7, 8, 9, 10]


def test_shapes_of_choices_recur():
    def shape(count, length, longest=None):
        return pad_choices([[[1]], [[1] * length] * count], longest)[0].shape[1:]

    for size, padded in ((1, 1), (2, 2), (4, 4), (5, 8), (8, 8), (9, 16)):
        assert shape(size, 1) == (padded, 1)
        assert shape(1, size) == (1, padded)
    assert shape(3, 3) == (3, 4)  # tasks of three labels are common
    # What has no room is no padding; that choices have none themselves, their caller tells.
    assert [shape(3, length, 7) for length in (3, 5, 7, 9)] == [(3, 4), (3, 7), (3, 7), (3, 9)]
