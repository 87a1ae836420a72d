"""Span corruption and prefix LM of any text: inputs and targets together give it back."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from properties import repeatable

from softprompt_jax.pretraining.config import CorpusOptions
from softprompt_jax.pretraining.examples import CorpusStream, PrefixLM, SpanCorruption
from softprompt_jax.pretraining.span_corruption import (
    corrupt,
    lengths,
    prefix_lm,
    random_spans_noise_mask,
)

EOS = 1
SENTINELS = np.arange(999, 899, -1)  # of 100 at most, as T5's
SEEDS = st.integers(0, 2**32 - 1)
DENSITIES = st.floats(0.02, 0.4)  # beyond, some texts cannot be parted into so many spans
SPANS = st.floats(1, 5)


def put_together(inputs, targets):
    """The text of which these are made: spans of one and of the other in turn."""
    rest = [list(inputs[:-1]), list(targets[:-1])]
    assert inputs[-1] == targets[-1] == EOS
    said = [0, 0]  # sentinels of the inputs and of the targets so far
    text = []
    # The one that does not begin with a sentinel has the first span.
    turn = int(rest[0][0] == SENTINELS[0])
    while rest[turn]:
        other = 1 - turn
        assert rest[other].pop(0) == SENTINELS[said[other]]
        said[other] += 1
        while rest[turn] and rest[turn][0] not in SENTINELS:
            text.append(rest[turn].pop(0))
        turn = other
    assert not rest[1 - turn]
    return text


def masks(length, seed, density, mean, rows=None):
    return random_spans_noise_mask(length, np.random.default_rng(seed), density, mean, rows)


@repeatable(200)
@given(
    st.lists(st.tuples(st.integers(2, 800), st.booleans()), min_size=1, max_size=40),
    st.sampled_from([np.int32, np.uint16, np.int64]),
)
def test_any_mask_gives_the_text_back(tokens, dtype):
    ids, mask = zip(*tokens, strict=True)
    inputs, targets = corrupt(np.array(ids, dtype), np.array(mask), SENTINELS, EOS)
    assert inputs.dtype == targets.dtype == dtype
    assert put_together(inputs.tolist(), targets.tolist()) == list(ids)


@repeatable(150)
@given(st.integers(1, 200), SEEDS, DENSITIES, SPANS, st.integers(1, 4))
def test_masks_have_their_noise_and_spans(length, seed, density, mean, rows):
    drawn = masks(length, seed, density, mean, rows)
    assert drawn.shape == (rows, length)
    counts = set()
    for mask in drawn.tolist():
        spans = sum(
            noise and not before for before, noise in zip([False, *mask], mask, strict=False)
        )
        counts.add((sum(mask), spans))
        assert not mask[0]  # text comes first
        assert mask[-1] or length == 1
    ((noise, spans),) = counts
    if length > 1:
        assert abs(noise - length * density) <= 0.51 or noise in (1, length - 1)
        assert abs(spans - noise / mean) <= 0.51 or spans == 1
    again = masks(length, seed, density, mean, rows)
    np.testing.assert_array_equal(again, drawn)


@repeatable(120)
@given(st.integers(3, 120), SEEDS, DENSITIES, SPANS)
def test_lengths_fill_the_input(inputs_length, seed, density, mean):
    tokens, targets_length = lengths(inputs_length, density, mean)
    found = []
    for length in (tokens, tokens + 1):
        mask = masks(length, seed, density, mean)
        text = np.arange(2, 2 + length)
        # Sentinels that cannot be mistaken for text, as many as it takes.
        inputs, targets = corrupt(text, mask, np.arange(length) + 10_000, EOS)
        found.append((len(inputs), len(targets)))
    assert found[0][0] <= inputs_length < found[1][0]
    assert found[0][1] == targets_length


@repeatable(150)
@given(st.integers(2, 30), st.integers(1, 5), SEEDS)
def test_prefix_lm_parts_the_text(length, rows, seed):
    tokens = np.arange(2, 2 + rows * length).reshape(rows, length)
    parts = prefix_lm(tokens, np.random.default_rng(seed), EOS)
    for text, inputs, targets, input_length, target_length in zip(tokens, *parts, strict=True):
        assert len(inputs) == len(targets) == length
        assert min(input_length, target_length) >= 2
        assert input_length + target_length == length + 2
        assert inputs[input_length - 1] == targets[target_length - 1] == EOS
        assert not inputs[input_length:].any()
        assert not targets[target_length:].any()
        whole = [*inputs[: input_length - 1], *targets[: target_length - 1]]
        assert whole == text.tolist()


@repeatable(80)
@given(
    st.sampled_from(["span_corruption", "prefix_lm"]),
    st.integers(8, 14),
    st.none() | st.integers(1, 3),
    st.integers(40, 150),
    st.integers(1, 4),
    st.integers(0, 3),
    st.data(),
)
def test_an_epoch_goes_through_the_corpus_once(kind, length, cuts, size, batch_size, seed, data):
    options = CorpusOptions(objective=kind, input_length=length, prefix_lengths=cuts)
    if kind == "prefix_lm":
        objective = PrefixLM(options, EOS)
    else:
        objective = SpanCorruption(options, SENTINELS, EOS)
    corpus = np.arange(2, 2 + size, dtype=np.int32)  # so that a token tells its place
    stream = CorpusStream(corpus, objective, batch_size, seed)
    batches = [next(stream) for _ in range(2 * stream.texts_per_epoch // batch_size + 2)]
    position = data.draw(st.integers(0, len(batches) - 1))
    own = data.draw(st.permutations(range(batch_size)))[: data.draw(st.integers(1, batch_size))]
    later = CorpusStream(corpus, objective, batch_size, seed, position=position, own=np.array(own))
    for batch in batches[position:]:
        again = next(later)
        for name in batch:
            np.testing.assert_array_equal(again[name], batch[name][own])

    texts = []
    for batch in batches:
        assert (batch["inputs"].shape[1], batch["targets"].shape[1]) in objective.shapes
        for row in range(batch_size):
            inputs, targets = (
                batch[f"{name}s"][row][batch[f"{name}_mask"][row]].tolist()
                for name in ("input", "target")
            )
            if kind == "prefix_lm":
                assert inputs[-1] == targets[-1] == EOS
                texts.append([*inputs[:-1], *targets[:-1]])
            else:
                texts.append(put_together(inputs, targets))
    for first in range(0, len(texts) - stream.texts_per_epoch + 1, stream.texts_per_epoch):
        epoch = texts[first : first + stream.texts_per_epoch]
        for text in epoch:
            assert text == list(range(text[0], text[0] + objective.length))
        places = [token for text in epoch for token in text]
        assert len(set(places)) == len(places)
        assert size - len(places) < 2 * objective.length
