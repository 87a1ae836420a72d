"""Span corruption against the published rule written as loops, and against the t5 package.

golden_span_corruption.py holds what t5 gave; where t5 is installed it is asked again.
"""

import itertools
import math

import numpy as np
import pytest
from pretraining import golden_span_corruption as golden

from softprompt_jax.pretraining.span_corruption import (
    corrupt,
    lengths,
    prefix_lm,
    random_spans_noise_mask,
)

GOLDEN = golden.GOLDEN
EOS = 1
SENTINELS = np.arange(32099, 31999, -1)  # <extra_id_0> is 32099


def as_loops(tokens, mask):
    """Inputs and targets by the rule as the T5 paper's figure 2 and t5's comments tell it."""
    inputs, targets = [], []
    text_spans = noise_spans = 0
    before = None
    for token, noise in zip(tokens, mask, strict=True):
        if noise:
            if before is not True:
                inputs.append(32099 - noise_spans)
                noise_spans += 1
            targets.append(token)
        else:
            if before is not False:
                targets.append(32099 - text_spans)
                text_spans += 1
            inputs.append(token)
        before = noise
    return [*inputs, EOS], [*targets, EOS]


def mask_of(span_lengths):
    return np.repeat(np.arange(len(span_lengths)) % 2 == 1, span_lengths)


def chi_square(counts, expected):
    counts, expected = np.asarray(counts, float), np.asarray(expected, float)
    return float(((counts - expected) ** 2 / expected).sum())


def chi_square_of_two(first, second):
    """Of two histograms, whether they are of one distribution."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    ratio = math.sqrt(second.sum() / first.sum())
    used = first + second > 0
    terms = (first * ratio - second / ratio) ** 2 / (first + second + ~used)
    return float(terms.sum()), int(used.sum()) - 1


def limit(degrees):
    """What chi-square exceeds once in about 3,000 draws (Wilson and Hilferty's formula)."""
    part = 2 / (9 * degrees)
    return degrees * (1 - part + 3.4 * math.sqrt(part)) ** 3


@pytest.mark.parametrize("inputs_length", golden.INPUTS_LENGTHS)
def test_lengths_are_those_of_t5(inputs_length):
    tokens, targets = lengths(inputs_length)
    if inputs_length in (3, 9, 172, 316, 676):
        # Here what t5 computes is not what its masks give.
        noise, spans = GOLDEN["counts"][tokens]
        assert GOLDEN["lengths"][inputs_length] != [tokens, targets]
        assert (tokens - noise + spans + 1, noise + spans + 1) == (inputs_length, targets)
    else:
        assert [tokens, targets] == GOLDEN["lengths"][inputs_length]


@pytest.mark.parametrize(("density", "mean"), [(0.15, 3.0), (0.5, 3.0), (0.15, 20.0), (0.3, 1.0)])
def test_corrupt_fills_the_lengths(density, mean):
    generator = np.random.default_rng(0)
    for inputs_length in range(3, 200):
        tokens_length, targets_length = lengths(inputs_length, density, mean)
        mask = random_spans_noise_mask(tokens_length, generator, density, mean)
        inputs, targets = corrupt(np.arange(100, 100 + tokens_length), mask, SENTINELS, EOS)
        assert len(targets) == targets_length
        assert len(inputs) <= inputs_length
        longer = random_spans_noise_mask(tokens_length + 1, generator, density, mean)
        more, _ = corrupt(np.arange(tokens_length + 1), longer, SENTINELS, EOS)
        assert len(more) > inputs_length
        if density == 0.15 and mean == 3:
            assert len(inputs) == inputs_length


@pytest.mark.parametrize("length", golden.LENGTHS)
def test_masks_have_as_much_noise_as_those_of_t5(length):
    masks = random_spans_noise_mask(length, np.random.default_rng(length), rows=5)
    noise, spans = GOLDEN["counts"][length]
    assert masks.shape == (5, length)
    assert masks.dtype == bool
    assert masks.sum(axis=1).tolist() == [noise] * 5
    assert [len(golden.span_lengths(mask)) // 2 for mask in masks] == [spans] * 5
    assert not masks[:, 0].any()


@pytest.mark.parametrize("number", range(len(golden.EXAMPLES)))
def test_corrupt_gives_the_inputs_and_targets_of_t5(number):
    span_lengths, inputs, targets = GOLDEN["examples"][number]
    mask = mask_of(span_lengths)
    ours = corrupt(np.arange(100, 100 + len(mask)), mask, SENTINELS, EOS)
    assert ours[0].tolist() == [*inputs, EOS]
    assert ours[1].tolist() == [*targets, EOS]


def test_corrupt_equals_the_rule_as_loops():
    generator = np.random.default_rng(0)
    masks = random_spans_noise_mask(90, generator, rows=40)
    tokens = generator.integers(3, 31000, masks.shape).astype(np.uint16)
    inputs, targets = corrupt(tokens, masks, SENTINELS, EOS)
    assert inputs.dtype == targets.dtype == np.uint16
    for row in range(len(masks)):
        expected = as_loops(tokens[row].tolist(), masks[row].tolist())
        assert (inputs[row].tolist(), targets[row].tolist()) == expected
    # Masks of another rule: noise first, no noise, only noise.
    for mask in ([True, False, True, True], [False] * 4, [True] * 4):
        expected = as_loops([7, 8, 9, 10], mask)
        one = corrupt(np.array([7, 8, 9, 10]), np.array(mask), SENTINELS, EOS)
        assert (one[0].tolist(), one[1].tolist()) == expected


def test_all_masks_are_equally_likely():
    # 12 tokens, 6 of them noise in 2 spans: 5 ways to part the text times 5 to part the noise.
    masks = random_spans_noise_mask(12, np.random.default_rng(0), 0.5, 3.0, rows=5000)
    seen, counts = np.unique(masks, axis=0, return_counts=True)
    parts = [(first, 6 - first) for first in range(1, 6)]
    possible = [
        mask_of([text[0], noise[0], text[1], noise[1]])
        for text, noise in itertools.product(parts, parts)
    ]
    assert {tuple(mask) for mask in seen} == {tuple(mask) for mask in possible}
    assert chi_square(counts, np.full(25, 200)) < limit(24)


@pytest.mark.parametrize("one_by_one", [False, True])
def test_span_lengths_and_places_are_distributed_as_those_of_t5(one_by_one):
    generator = np.random.default_rng(0)
    if one_by_one:
        draws = [
            random_spans_noise_mask(golden.MASK_LENGTH, generator) for _ in range(golden.MASKS)
        ]
        masks = np.stack(draws)
    else:
        masks = random_spans_noise_mask(golden.MASK_LENGTH, generator, rows=golden.MASKS)
    ours = golden.statistics(masks)
    assert sum(ours["text_spans"]) == sum(GOLDEN["text_spans"])
    assert sum(ours["noise_spans"]) == sum(GOLDEN["noise_spans"])
    assert sum(ours["noise_places"]) == sum(GOLDEN["noise_places"])
    for name in ("text_spans", "noise_spans"):
        difference, degrees = chi_square_of_two(ours[name], GOLDEN[name])
        assert difference < limit(degrees), name
    # Noise tokens come in spans, so their counts vary more than chi-square's would.
    np.testing.assert_allclose(ours["noise_places"], GOLDEN["noise_places"], rtol=0.1)


def test_span_lengths_are_distributed_as_computed():
    masks = random_spans_noise_mask(284, np.random.default_rng(1), rows=2000)
    counts = golden.statistics(masks)["noise_spans"]
    noise, spans = 43, 14
    # The first of `spans` parts of `noise` items has n of them in so many of all cases.
    shares = [
        math.comb(noise - n - 1, spans - 2) / math.comb(noise - 1, spans - 1) for n in range(1, 10)
    ]
    shares.append(1 - sum(shares))
    # Parts of one mask depend on each other, which makes chi-square smaller, if anything.
    assert chi_square(counts, np.array(shares) * 2000 * spans) < limit(9)


def test_masks_are_a_function_of_the_generator():
    first, again, other = (
        random_spans_noise_mask(100, np.random.default_rng(seed), rows=8) for seed in (5, 5, 6)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(np.unique(first, axis=0)) == 8


def test_prefix_lm_parts_every_row():
    generator = np.random.default_rng(0)
    tokens = generator.integers(3, 8000, (4, 50, 17)).astype(np.uint16)
    inputs, targets, input_lengths, target_lengths = prefix_lm(tokens, generator, EOS, pad_id=2)
    assert inputs.shape == targets.shape == tokens.shape
    assert inputs.dtype == targets.dtype == np.uint16
    for place in np.ndindex(4, 50):
        a, b = input_lengths[place], target_lengths[place]
        assert inputs[place][a - 1] == targets[place][b - 1] == EOS
        joined = [*inputs[place][: a - 1], *targets[place][: b - 1]]
        assert joined == tokens[place].tolist()
        assert set(inputs[place][a:].tolist()) <= {2}
        assert set(targets[place][b:].tolist()) <= {2}
    assert (input_lengths + target_lengths == 19).all()


def test_prefix_lm_cuts_anywhere_like_t5():
    tokens = np.ones((golden.CUTS, golden.CHUNK), np.int32)
    _, _, input_lengths, _ = prefix_lm(tokens, np.random.default_rng(0), EOS)
    counts = np.bincount(input_lengths - 1, minlength=golden.CHUNK + 1)
    assert (counts > 0).tolist() == (np.array(GOLDEN["cuts"]) > 0).tolist()
    assert chi_square(counts[1:-1], np.full(16, 50)) < limit(15)
    assert chi_square(GOLDEN["cuts"][1:-1], np.full(16, 50)) < limit(15)


def test_prefix_lm_of_one_row():
    tokens = np.array([7, 8])
    inputs, targets, *both = prefix_lm(tokens, np.random.default_rng(0), EOS)
    assert (inputs.tolist(), targets.tolist(), both) == ([7, EOS], [8, EOS], [2, 2])


def test_what_cannot_be_done_is_refused():
    generator = np.random.default_rng(0)
    tokens, mask = np.arange(4), np.array([False, True, False, True])
    with pytest.raises(ValueError, match="2 spans, but 1 sentinels"):
        corrupt(tokens, mask, SENTINELS[:1], EOS)
    ragged = np.array([[False, True, True], [False, False, True]])
    with pytest.raises(ValueError, match="different lengths"):
        corrupt(np.ones((2, 3), int), ragged, SENTINELS, EOS)
    with pytest.raises(ValueError, match="mask"):
        corrupt(tokens, mask[:3], SENTINELS, EOS)
    with pytest.raises(ValueError, match="inputs_length"):
        lengths(2)
    for density, mean in ((0.0, 3.0), (1.0, 3.0), (0.15, 0.5)):
        with pytest.raises(ValueError, match="noise_density"):
            random_spans_noise_mask(10, generator, density, mean)
    with pytest.raises(ValueError, match="spans"):
        random_spans_noise_mask(20, generator, 0.9, 1.0)
    with pytest.raises(ValueError, match="no two parts"):
        prefix_lm(np.array([5]), generator, EOS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of TensorFlow and of what t5 imports
def test_t5_still_gives_the_recorded_values():
    pytest.importorskip("t5.data.preprocessors", reason="t5 is not installed")
    assert golden.from_t5() == GOLDEN
