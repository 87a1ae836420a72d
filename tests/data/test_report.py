import json
import time
from types import SimpleNamespace

import numpy as np

from softprompt_jax.config import RunConfig, TrainOptions
from softprompt_jax.data import TokenizedExamples, padding_share, plan_shapes, report
from softprompt_jax.data.mixing import Mixing
from softprompt_jax.data.preparation import RunData
from softprompt_jax.data.report import (
    SplitReport,
    describe_run,
    describe_split,
    duplicates,
    report_lines,
    run_as_dict,
    shape_lines,
)
from softprompt_jax.data.splits import Split


def rows_of(inputs):
    return TokenizedExamples.from_rows(inputs, [[1]] * len(inputs))


def in_both(a, b):
    return duplicates({"a": a, "b": b})["a", "b"]


def count_duplicates(a, b):
    known = [tuple(row) for row in a]
    return sum(tuple(row) in known for row in b)


def test_duplicates_as_by_brute_force():
    generator = np.random.default_rng(0)
    found = []
    for _ in range(60):
        # Few tokens, 0 among them, and short rows: many are equal but for order or length.
        a, b = (
            [
                generator.integers(0, 3, generator.integers(1, 6)).tolist()
                for _ in range(generator.integers(1, 40))
            ]
            for _ in range(2)
        )
        expected = count_duplicates(a, b)
        assert in_both(rows_of(a), rows_of(b)) == expected
        found.append((expected, len(b)))
    assert any(0 < some < rows for some, rows in found)


def test_duplicates_differ_in_any_token():
    a = rows_of([[5, 6, 7]])
    for other in ([5, 7, 6], [5, 6], [5, 6, 7, 0], [0, 5, 6, 7], [5, 6, 8], [6, 7], [18]):
        assert in_both(a, rows_of([other])) == 0
        assert in_both(rows_of([other]), a) == 0
    # Every one of b's rows counts; the targets do not matter.
    b = TokenizedExamples.from_rows([[5, 6, 7], [9], [5, 6, 7]], [[1], [1], [2, 3]])
    assert in_both(a, b) == 2
    assert in_both(b, a) == 1
    assert in_both(a, b.first(2)) == 1
    assert in_both(b.first(1), b) == 2
    assert duplicates({"a": a, "b": b, "c": b}) == {("a", "b"): 2, ("a", "c"): 2, ("b", "c"): 3}


def test_a_million_rows_in_seconds(make_examples):
    generator = np.random.default_rng(1)
    lengths = generator.integers(4, 60, 1_000_000)
    train = make_examples(lengths, np.full(1_000_000, 2))
    began = time.monotonic()
    # Different rows, which could only be taken for each other by their hashes.
    assert in_both(train, make_examples(lengths[:1000], np.full(1000, 2), seed=5)) == 0
    assert in_both(train, train.first(1000)) == 1000
    described = describe_split(train)
    assert time.monotonic() - began < 20  # some 2 s
    assert described.input_lengths == (4, np.sort(lengths)[499_999], *described.input_lengths[2:])


def test_describe_split(make_examples):
    generator = np.random.default_rng(2)
    for n in (1, 2, 3, 19, 20, 21, 400):
        inputs = generator.integers(1, 90, n)
        targets = generator.integers(1, 9, n)
        described = describe_split(make_examples(inputs, targets), {"a": n})
        assert described.examples == n
        assert described.label_counts == {"a": n}
        for lengths, values in (
            (described.input_lengths, sorted(inputs)),
            (described.target_lengths, sorted(targets)),
        ):
            assert (lengths.min, lengths.max) == (values[0], values[-1])
            for share, length in ((50, lengths.median), (95, lengths.p95)):
                # The shortest length that so many rows do not exceed.
                assert 100 * sum(v <= length for v in values) >= share * n
                assert 100 * sum(v < length for v in values) < share * n
    assert describe_split(make_examples([3], [1])).label_counts == {}


def make_report(**changes):
    values = {
        "examples": 8655,
        "label_counts": {"negative": 4310, "positive": 4345},
        "input_lengths": report.Lengths(9, 27, 52, 60),
        "target_lengths": report.Lengths(2, 2, 2, 3),
        "truncated_inputs": 41,
        "truncated_targets": 0,
    }
    return SplitReport(**(values | changes))


def test_report_lines():
    splits = {
        "train": make_report(),
        "validation": make_report(examples=500, label_counts={}, truncated_inputs=0),
        "test": make_report(examples=1000, label_counts={"negative": 1000, "positive": 0}),
    }
    lines = report_lines(
        "reviews",
        splits,
        {("train", "validation"): 12, ("train", "test"): 0, ("validation", "test"): 1},
    )
    assert lines == [
        "                      input tokens                     target tokens",
        "reviews     examples  min  median  95 %  max    cut    min  median  95 %  max  cut",
        "train          8,655    9      27    52   60  0.5 %      2       2     2    3  0 %",
        "validation       500    9      27    52   60    0 %      2       2     2    3  0 %",
        "test           1,000    9      27    52   60  4.1 %      2       2     2    3  0 %",
        "train labels: negative 49.8 % (4,310), positive 50.2 % (4,345)",
        "test labels: negative 100 % (1,000), positive 0 % (0)",
        "warning: 12 of 500 validation inputs also occur in train, so scores on validation may be "
        "better than on new examples.",
        "warning: 1 of 1,000 test inputs also occur in validation, so scores on test may be "
        "better than on new examples.",
    ]


def test_columns_stay_aligned():
    splits = {"train": make_report(examples=12_345_678, truncated_inputs=12_345_677)}
    heading, columns, row = report_lines("a_task/with_a_long_name", splits)[:3]
    assert heading.index("input") == columns.index("min")
    assert heading.index("target") == columns.rindex("min")
    assert "99.9 %" in row
    assert len(row) == len(columns)


def test_labels_that_are_missing_or_many():
    train = make_report(examples=1000, label_counts={"a": 999, "b": 0, "c": 0}, truncated_inputs=1)
    lines = report_lines("task", {"train": train, "validation": train})
    assert "  0.1 %" in lines[2]
    assert lines[4] == "train labels: none of the labels 0.1 % (1), a 99.9 % (999), b 0 % (0), " + (
        "c 0 % (0)"
    )
    assert lines[6:] == ["warning: no train example has the label 'b', 'c'."]
    many = {f"intent {i}": i for i in range(1, 78)}
    train = make_report(examples=sum(many.values()), label_counts=many)
    line = report_lines("task", {"train": train})[3]
    assert line.startswith("train labels: intent 77 2.6 % (77), intent 76 2.5 % (76), ")
    assert line.endswith("intent 70 2.3 % (70) and 69 more")


def test_shape_lines():
    assert shape_lines([(24, 2), (60, 4)], 16, 0.0712, [(60, 4)]) == [
        "Training compiles 2 shapes (input + target tokens, batches of 16): 24 + 2, 60 + 4; "
        "7.1 % of the tokens are padding.",
        "Evaluation compiles 1 shape: 60 + 4.",
    ]


def test_run(make_examples):
    train = make_examples(np.arange(5, 45), np.full(40, 2))
    held_out = make_examples(np.arange(5, 15), np.full(10, 2), seed=3)
    # Three of the ten validation rows are taken from the training rows.
    mixed = TokenizedExamples.from_rows(
        [row.tolist() for row in np.split(train.inputs, train.input_offsets[1:-1])[:3]]
        + [row.tolist() for row in np.split(held_out.inputs, held_out.input_offsets[1:-1])[:7]],
        [[8, 1]] * 10,
    )
    splits = {
        "train": Split(train, [], {"no": 30, "yes": 10}),
        "validation": Split(mixed, [], {"no": 5, "yes": 5}),
    }
    shapes = plan_shapes(train.input_lengths, train.target_lengths, 3)
    data = RunData(
        splits=[splits],
        examples=train,
        mixing=Mixing((40,)),
        shapes=shapes,
        transfer=[Split(held_out, [], {})],
        evaluation_shapes=shapes[-1:],
    )
    config = RunConfig(train=TrainOptions(batch_size=8), seed=3)
    tasks = [SimpleNamespace(name="mine", splits=("train", "validation"))]
    transfer = [SimpleNamespace(name="other", splits=("validation",))]
    as_dict = run_as_dict(config, tasks, transfer, data)  # pyright: ignore[reportArgumentType]
    assert json.loads(json.dumps(as_dict)) == as_dict
    mine = as_dict["tasks"]["mine"]
    assert mine["duplicates"] == [{"in": "train", "of": "validation", "rows": 3}]
    assert mine["splits"]["train"] == {
        "examples": 40,
        "label_counts": {"no": 30, "yes": 10},
        "input_lengths": {"min": 5, "median": 24, "p95": 42, "max": 44},
        "target_lengths": {"min": 2, "median": 2, "p95": 2, "max": 2},
        "truncated_inputs": 0,
        "truncated_targets": 0,
    }
    assert as_dict["transfer"]["other"]["splits"]["validation"]["examples"] == 10
    assert as_dict["batch_size"] == 8
    assert as_dict["padding"] == padding_share(train, shapes, 8, seed=3)
    assert as_dict["shapes"] == [list(shape) for shape in shapes]
    assert as_dict["evaluation_shapes"] == [[44, 2]]
    text = describe_run(config, tasks, transfer, data)  # pyright: ignore[reportArgumentType]
    assert "warning: 3 of 10 validation inputs also occur in train" in text
    assert "other (transfer)  examples" in text
    assert "Training compiles 3 shapes" in text
    assert text.endswith("Evaluation compiles 1 shape: 44 + 2.")
    assert "{" not in text
