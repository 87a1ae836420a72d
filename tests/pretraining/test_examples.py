import numpy as np
import pytest

from softprompt_jax.errors import UserError
from softprompt_jax.pretraining.config import CorpusOptions
from softprompt_jax.pretraining.examples import (
    CorpusStream,
    PrefixLM,
    SpanCorruption,
    validation_rows,
)

EOS = 1
SENTINELS = np.arange(99, 79, -1)  # the first has the highest id
# Every token once, so that places can be told.
TOKENS = np.arange(100, 1100).astype(np.uint16)


def span_corruption(**options):
    options = CorpusOptions(**{"input_length": 32, **options})
    return SpanCorruption(options, SENTINELS, EOS)


def prefix_lm(**options):
    return PrefixLM(CorpusOptions(**{"input_length": 32, "prefix_lengths": 3, **options}), EOS)


def restored(batch, row):
    """The text of an example, from its input and target."""
    inputs = batch["inputs"][row][batch["input_mask"][row]]
    targets = batch["targets"][row][batch["target_mask"][row]]
    assert inputs[-1] == targets[-1] == EOS
    if not np.isin(inputs, SENTINELS).any():
        return [*inputs[:-1], *targets[:-1]]
    # Noise follows the sentinel of the text before it, and the other way round.
    parts = {}
    for side in (inputs[:-1], targets[:-1]):
        last = None
        for token in side:
            if token in SENTINELS:
                last = token
            else:
                parts.setdefault((side is targets, last), []).append(int(token))
    return sorted(token for part in parts.values() for token in part)


OBJECTIVES = [span_corruption, prefix_lm, lambda: prefix_lm(prefix_lengths=None)]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_epoch_has_every_text_once_and_each_epoch_others(objective):
    objective = objective()
    stream = CorpusStream(TOKENS, objective, 1, seed=3)
    assert stream.texts_per_epoch == 1000 // objective.length - 1
    epochs = []
    for _ in range(2):
        count = stream.texts_per_epoch
        texts = [restored(next(stream), 0) for _ in range(count)]
        tokens = [int(token) for text in texts for token in text]
        assert len(tokens) == len(set(tokens)) == count * objective.length
        epochs.append([min(text) for text in texts])
    assert epochs[0] != sorted(epochs[0])
    assert sorted(epochs[0]) != sorted(epochs[1])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_stream_goes_on_where_another_stopped(objective):
    whole = CorpusStream(TOKENS, objective(), 8, seed=3)
    batches = [next(whole) for _ in range(9)]  # more than two epochs
    for position in (0, 3, 8):
        again = CorpusStream(TOKENS, objective(), 8, seed=3, position=position)
        for name, values in next(again).items():
            np.testing.assert_array_equal(values, batches[position][name])
        part = CorpusStream(TOKENS, objective(), 8, 3, position=position, own=np.array([2, 5]))
        for name, values in next(part).items():
            np.testing.assert_array_equal(values, batches[position][name][[2, 5]])
    other = next(CorpusStream(TOKENS, objective(), 8, seed=4))
    assert not np.array_equal(other["inputs"], batches[0]["inputs"])


def test_batches_have_the_types_that_training_takes():
    batch = next(CorpusStream(TOKENS, span_corruption(), 4, seed=0))
    assert {name: values.dtype.name for name, values in batch.items()} == {
        "inputs": "int32",
        "input_mask": "bool",
        "targets": "int32",
        "target_mask": "bool",
        "prompt_ids": "int32",
    }
    assert batch["inputs"].shape == (4, 32)


def test_span_corruption_has_one_shape_and_no_padding():
    objective = span_corruption()
    stream = CorpusStream(TOKENS, objective, 4, seed=0)
    shapes = set()
    for position in range(6):
        batch = next(stream)
        shapes.add((batch["inputs"].shape[1], batch["targets"].shape[1]))
        real, padded = stream.tokens(position)
        assert real == padded == sum(batch[name].size for name in ("inputs", "targets"))
    assert shapes == set(objective.shapes)


def test_prefix_lm_has_few_shapes_and_no_padding():
    objective = prefix_lm()
    stream = CorpusStream(TOKENS, objective, 2, seed=0)
    shapes = set()
    for position in range(40):
        batch = next(stream)
        shapes.add((batch["inputs"].shape[1], batch["targets"].shape[1]))
        assert stream.tokens(position) == (64, 64)
    assert shapes == set(objective.shapes) == {(8, 24), (16, 16), (23, 9)}


def test_prefix_lm_as_t5_has_it_cuts_every_row_elsewhere():
    stream = CorpusStream(TOKENS, prefix_lm(prefix_lengths=None), 64, seed=0)
    lengths = next(stream)["input_mask"].sum(axis=1)
    assert set(range(2, 31)) >= set(lengths.tolist())
    assert len(set(lengths.tolist())) > 15
    assert stream.tokens(0) == (64 * 32, 64 * 60)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_validation_rows(objective):
    objective = objective()
    rows = validation_rows(TOKENS, objective, 5)
    assert len(rows) == 5
    again = validation_rows(TOKENS, objective, 3)
    np.testing.assert_array_equal(rows.inputs[: len(again.inputs)], again.inputs)
    for row in range(5):
        text = {
            "inputs": rows.inputs[None, rows.input_offsets[row] : rows.input_offsets[row + 1]],
            "targets": rows.targets[None, rows.target_offsets[row] : rows.target_offsets[row + 1]],
        }
        text |= {f"{name[:-1]}_mask": np.ones(x.shape, bool) for name, x in list(text.items())}
        first = 100 + row * objective.length
        assert restored(text, 0) == list(range(first, first + objective.length))
    shapes = {(a, b) for a, b in zip(rows.input_lengths, rows.target_lengths, strict=True)}
    assert all(any(a <= s and b <= t for s, t in objective.shapes) for a, b in shapes)
    assert len(validation_rows(TOKENS, objective, 10**6)) == 1000 // objective.length


def test_texts_that_are_too_short():
    with pytest.raises(UserError, match="too few"):
        CorpusStream(TOKENS[:50], span_corruption(), 2, seed=0)
    with pytest.raises(UserError, match="fewer than an example"):
        validation_rows(TOKENS[:20], span_corruption(), 2)


def test_too_few_sentinels():
    with pytest.raises(UserError, match="cannot be taken out"):
        span_corruption(input_length=512)
