from collections import Counter

import numpy as np

from softprompt_jax.data import BatchStream, plan_shapes
from softprompt_jax.data.mixing import Mixing, concatenate, limited_rates


def epochs(mixing, count, seed=3):
    return [
        mixing.epoch(np.random.default_rng([seed, epoch]), seed, epoch) for epoch in range(count)
    ]


def test_without_rates_every_example_comes_once():
    mixing = Mixing((5, 1, 30))
    for rows in epochs(mixing, 3):
        assert sorted(rows) == list(range(36))
    assert mixing.rows_per_epoch == 36


def test_rates_hold_in_every_epoch_and_no_example_is_neglected():
    mixing = Mixing((7, 100), rates=(3.0, 1.0))
    share = mixing.rows_per_epoch
    assert share == 80 + 27
    seen = Counter()
    for rows in epochs(mixing, 20):
        assert len(rows) == share
        tasks = Counter(mixing.prompt_ids(rows).tolist())
        assert tasks == {0: 80, 1: 27}
        seen.update(rows.tolist())
    # Each task goes through its own examples pass by pass: counts differ by one pass at most.
    small = [seen[i] for i in range(7)]
    large = [seen[i] for i in range(7, 107)]
    assert sum(small) == 1600
    assert max(small) - min(small) <= 1
    assert sum(large) == 540
    assert max(large) - min(large) <= 1


def test_an_epoch_is_a_function_of_seed_and_number():
    mixing = Mixing((7, 100), rates=(1.0, 1.0))
    again = mixing.epoch(np.random.default_rng([3, 5]), 3, 5)
    assert (epochs(mixing, 6)[5] == again).all()
    assert (epochs(mixing, 1)[0] != epochs(mixing, 1, seed=4)[0]).any()
    assert set(epochs(mixing, 1)[0]) != set(epochs(mixing, 2)[1])


def test_limited_rates_follow_the_published_rule():
    # Raffel et al. 2020, section 3.5.2: r_m = min(e_m, K) / sum of min(e_n, K).
    rates = limited_rates([10, 1000, 400], 500)
    assert np.allclose(np.divide(rates, sum(rates)), np.array([10, 500, 400]) / 910)


def test_a_rare_task_still_comes():
    assert (
        Counter(
            Mixing((1000, 5), rates=(1e6, 1.0)).prompt_ids(
                epochs(Mixing((1000, 5), (1e6, 1.0)), 1)[0]
            )
        )[1]
        == 1
    )


def test_concatenated_examples_and_their_prompt_ids(make_examples):
    first, second = make_examples([3, 1], [1, 2]), make_examples([2, 5, 4], [1, 1, 3]).first(2)
    both = concatenate([first, second])
    assert both.input_lengths.tolist() == [3, 1, 2, 5]
    assert both.target_lengths.tolist() == [1, 2, 1, 1]
    for i, (part, row) in enumerate([(first, 0), (first, 1), (second, 0), (second, 1)]):
        expected = part.inputs[part.input_offsets[row] : part.input_offsets[row + 1]]
        got = both.inputs[both.input_offsets[i] : both.input_offsets[i + 1]]
        assert got.tolist() == expected.tolist()
    assert concatenate([first]) is first

    mixing = Mixing((2, 2))
    shapes = plan_shapes(both.input_lengths, both.target_lengths, 1)
    stream = BatchStream(both, shapes, 2, seed=0, mixing=mixing)
    for position in range(4):
        _, rows = stream.rows(position)
        assert next(stream)["prompt_ids"].tolist() == (rows >= 2).astype(int).tolist()


def test_a_stream_with_rates_goes_on_where_it_stopped(make_examples):
    examples = make_examples(np.arange(1, 31), np.ones(30, int))
    shapes = plan_shapes(examples.input_lengths, examples.target_lengths, 2)
    mixing = Mixing((10, 20), rates=(2.0, 1.0))
    whole = BatchStream(examples, shapes, 4, seed=1, mixing=mixing)
    batches = [next(whole) for _ in range(20)]
    later = BatchStream(examples, shapes, 4, seed=1, mixing=mixing, position=13)
    for batch in batches[13:]:
        again = next(later)
        assert all((batch[name] == again[name]).all() for name in batch)
