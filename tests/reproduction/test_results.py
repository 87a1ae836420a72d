"""Means over seeds and tasks, and the tables."""

import numpy as np
import pytest
from reproduction.tiny_preset import tiny_preset

from softprompt_jax.reproduction.figures import title
from softprompt_jax.reproduction.grid import Outcome, Point, make_cells
from softprompt_jax.reproduction.results import (
    Published,
    Result,
    Row,
    Value,
    as_markdown,
    scores,
    to_json,
)

FACTS = {
    "title": "Things",
    "item": "figure 0",
    "preset": "tiny",
    "about": "random models",
    "finding": "Nothing.",
    "command": "python -m x",
}


def test_a_value_is_the_mean_over_seeds():
    numbers = [61.0, 64.5, 59.0]
    value = Value.of(dict(enumerate(numbers)))
    assert value.mean == pytest.approx(np.mean(numbers))
    assert value.deviation == pytest.approx(np.std(numbers, ddof=1))
    assert value.by_seed == {"0": 61.0, "1": 64.5, "2": 59.0}
    assert Value.of({0: 5.0, 1: None}) == Value(5.0, None, {"0": 5.0, "1": None})
    assert Value.of({0: None}).mean is None


def test_scores_are_means_over_tasks_then_seeds(tmp_path):
    preset = tiny_preset(tmp_path, tasks=2)
    points = [Point({"size": "narrow", "n": 1}), Point({"size": "narrow", "n": 2})]
    cells = make_cells(preset, points, tmp_path)
    # By task, then seed; the first task has a test split, which is what counts.
    accuracies = [(0.5, 0.6), (0.7, 0.9), (0.4, 0.2), (0.3, 0.8)]
    outcomes = [
        Outcome(
            {"test/accuracy": value, "validation/accuracy": 1.0}
            if first
            else {"validation/accuracy": value},
            {"versions": {"jax": "1"}},
        )
        for one, other in (accuracies[:2], accuracies[2:])
        for first, values in ((True, one), (False, other))
        for value in values
    ]
    outcomes[5] = Outcome({}, {}, "not finite")
    first, second = scores(cells, outcomes, ["sentiment", "sentiment1"])
    assert first.coordinates == {"size": "narrow", "n": 1}
    seeds = [100 * (0.5 + 0.7) / 2, 100 * (0.6 + 0.9) / 2]
    assert first.ours.by_seed == pytest.approx({"0": seeds[0], "1": seeds[1]})
    assert first.ours.mean == pytest.approx(np.mean(seeds))
    assert first.ours.deviation == pytest.approx(np.std(seeds, ddof=1))
    assert first.ours.by_task == pytest.approx({"sentiment": 55.0, "sentiment1": 80.0})
    # A seed of which one task diverged has no score.
    assert second.ours.by_seed == {"0": pytest.approx(35.0), "1": None}
    assert second.ours.mean == pytest.approx(35.0)
    assert second.ours.deviation is None
    result = Result.of_runs(cells, outcomes, [first, second], unit="score (%)", notes=["Tiny."])
    assert result.notes == ["Tiny.", "size narrow, n 2, seed 1 diverged."]
    assert [run["seed"] for run in result.runs] == [0, 1] * 4
    told = result.runs[5]
    assert told["diverged"] == "not finite"
    assert told["seed"] == 1
    assert told["config"]["prompt"]["length"] == 4


def table(result):
    told = to_json(FACTS, result)
    return [line for line in as_markdown(told).splitlines() if line.startswith("|")]


def test_two_coordinates_span_a_table():
    rows = [
        Row({"size": size, "length": length}, Value(50.0 + length, 1.25, {"0": 1.0, "1": 2.0}))
        for size in ("a", "b")
        for length in (1, 5)
        if (size, length) != ("b", 5)
    ]
    assert table(Result(rows, unit="accuracy (%)")) == [
        "| length | a | b |",
        "| --- | ---: | ---: |",
        "| 1 | 51.0 ± 1.2 | 51.0 ± 1.2 |",
        "| 5 | 55.0 ± 1.2 |  |",
    ]


def test_the_papers_numbers_stand_beside_ours():
    rows = [
        Row({"size": "a", "count": "all"}, Value(10_240), Published(10_420, "table 4")),
        Row({"size": "b", "count": "all"}, Value(51.26, 0.5), Published(50.0, "table 9", 1.0)),
        Row({"size": "c", "count": "all"}, Value(3.0)),
    ]
    assert table(Result(rows, unit="parameters")) == [
        "| size | count | ours | paper | difference | source |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
        "| a | all | 10,240 | 10,420 | -180 | table 4 |",
        "| b | all | 51.3 ± 0.5 | 50.0 ± 1.0 | +1.3 | table 9 |",
        "| c | all | 3.0 |  |  |  |",
    ]
    told = to_json(FACTS, Result(rows, unit="parameters"))
    assert told["rows"][0]["difference"] == -180
    assert told["rows"][2]["difference"] is None
    assert "jax" in told["versions"]


def test_the_text_tells_what_is_measured():
    rows = [Row({"size": "a", "n": 1}, Value.of({0: 1.0, 1: 2.0, 2: 4.0}))]
    result = Result(rows, unit="accuracy (%)", data="movie_reviews, test", notes=["Beware."])
    told = to_json(FACTS, result)
    assert "Counted from the models' shapes" in as_markdown({**told, "models": {"a": {}}})
    assert "`tiny`: counted from the data" in as_markdown(told)
    runs = [{"config": {"train": {"steps": steps}}} for steps in (300, 1200, 300)]
    ran = {**told, "runs": runs, "models": {"a": {}}}
    text = as_markdown(ran)
    scale = "Preset `tiny` (random models): a; 300 or 1,200 steps. "
    assert text.startswith(f"## Figure 0: Things\n\n{scale}")
    assert "Accuracy (%) on movie_reviews, test, mean ± standard deviation of 3 seeds." in text
    assert "bars: standard deviation of 3 seeds" in title(ran)
    by_run = {**ran, "over": "3 runs (3 tasks x 1 seeds)"}
    assert "deviation of 3 runs (3 tasks x 1 seeds)." in as_markdown(by_run)
    assert "bars: standard deviation of 3 runs (3 tasks x 1 seeds)" in title(by_run)
    assert "- Beware." in text
    assert "By `python -m x`." in text
