"""What the figures show: lines, their points and their names."""

import itertools

import pytest
from matplotlib.figure import Figure

from softprompt_jax.reproduction import family
from softprompt_jax.reproduction.figures import by_size

MODELS = {
    "small": {"names": ["a"], "architecture": "T5", "parameters": 1_000_000},
    "large": {"names": ["b"], "architecture": "T5", "parameters": 9_000_000},
    "other": {"names": ["c"], "architecture": "Llama", "parameters": 90_000_000},
}


def told(rows, sizes):
    return {
        "models": {size: MODELS[size] for size in sizes},
        "baseline": None,
        "unit": "accuracy (%)",
        "rows": [
            {"coordinates": at, "ours": {"mean": mean, "deviation": 1.0}, "paper": None}
            for at, mean in rows
        ],
    }


def lines(axes):
    """The points of each line by its name in the legend."""
    handles, names = axes.get_legend_handles_labels()
    return {
        name: list(zip(*(line.lines[0].get_data()), strict=True))
        for line, name in zip(handles, names, strict=True)
    }


def test_over_the_sizes_and_over_the_values():
    rows = [
        ({"size": "large", "length": 1}, 60.0),
        ({"size": "large", "length": 5}, 80.0),
        ({"size": "small", "length": 1}, 50.0),
    ]
    figure = Figure()
    by_size("length")(figure, told(rows, ("large", "small")))
    left, right = figure.axes
    assert lines(left) == {"1": [(1e6, 50.0), (9e6, 60.0)], "5": [(9e6, 80.0)]}
    assert lines(right) == {"small": [(0.0, 50.0)], "large": [(0.0, 60.0), (1.0, 80.0)]}


def test_no_line_joins_models_of_two_architectures():
    means = {"small": 50.0, "large": 60.0, "other": 80.0}
    rows = [({"size": size, "method": "prompt tuning"}, mean) for size, mean in means.items()]
    figure = Figure()
    by_size("method", ordered=False)(figure, told(rows, tuple(means)))
    left = figure.axes[0]
    drawn = [list(zip(*bars.lines[0].get_data(), strict=True)) for bars in left.containers]
    assert drawn == [[(1e6, 50.0), (9e6, 60.0)], [(9e7, 80.0)]]
    assert list(lines(left)) == ["prompt tuning"]


@pytest.mark.parametrize(
    ("sizes", "values"),
    [
        (
            ("small", "large"),
            ("prompt tuning", "model tuning", "multi-task model tuning", "prompt design"),
        ),
        (("small",), ("plain", "residual_mlp", "mlp", "lstm", "dept", "prefix")),
    ],
)
def test_names_of_values_have_room(sizes, values):
    rows = [({"size": size, "method": value}, 50.0) for size in sizes for value in values]
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    by_size("method", ordered=False)(figure, told(rows, sizes))
    figure.draw_without_rendering()
    names = figure.axes[-1].get_xticklabels()
    assert [name.get_text().replace("\n", " ") for name in names] == list(values)
    boxes = [name.get_window_extent() for name in names]
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(boxes))


@pytest.mark.parametrize("sizes", [("small",), ("small", "large")])
def test_further_coordinates_have_lines_of_their_own(sizes):
    means = {
        (size, step, way): 10.0 * number
        for number, (size, step, way) in enumerate(
            (size, step, way) for size in sizes for step in (0, 100) for way in ("says", "picks")
        )
    }
    rows = [
        ({"size": size, "steps": step, "answers": way}, mean)
        for (size, step, way), mean in means.items()
    ]
    figure = Figure()
    by_size("steps")(figure, told(rows, sizes))
    assert len(figure.axes) == len(sizes)
    assert lines(figure.axes[-1]) == {
        f"{size}, {way}": [(i, means[size, step, way]) for i, step in enumerate((0, 100))]
        for size in sizes
        for way in ("says", "picks")
    }
    if len(sizes) > 1:
        assert lines(figure.axes[0]) == {
            f"{step}, {way}": [
                (MODELS[size]["parameters"], means[size, step, way]) for size in sizes
            ]
            for step in (0, 100)
            for way in ("says", "picks")
        }


def test_the_family_has_a_panel_for_each_task():
    rows = []
    for task, base in (("films", 50.0), ("mail", 90.0)):
        rows.append(({"task": task, "size": "any", "method": "commonest label"}, base))
        for place, size in enumerate(("small", "large")):
            at = {"task": task, "size": size}
            rows.append(({**at, "method": "prompt tuning"}, base + 10 + place))
            rows.append(({**at, "method": "model tuning"}, base + 20 + place))
    figure = Figure()
    family.draw(figure, told(rows, ("small", "large")))
    assert [axes.get_title() for axes in figure.axes] == ["films", "mail"]
    for axes, base in zip(figure.axes, (50.0, 90.0), strict=True):
        handles, names = axes.get_legend_handles_labels()
        assert names == ["commonest label", "prompt tuning", "model tuning"]
        assert list(handles[0].get_ydata()) == [base, base]
        for handle, more in zip(handles[1:], (10, 20), strict=True):
            assert list(handle.lines[0].get_ydata()) == [base + more, base + more + 1]
