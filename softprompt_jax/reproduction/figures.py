"""Results as figures."""

import itertools
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from softprompt_jax.figures import save_png

Told = Mapping[str, Any]
"""The JSON of an experiment."""

Draw = Callable[[Any, Told], None]
"""Draws a result on an empty matplotlib figure."""

MARKERS = "osD^vP*X"


def draw_png(path: Path, draw: Draw, told: Told) -> None:
    """Draws a result, with its title, into a PNG file, which is whole or absent."""

    def drawn(figure: Any) -> None:
        draw(figure, told)
        figure.suptitle(title(told), fontsize=11)

    save_png(path, drawn, (11, 4.4))


def title(told: Told) -> str:
    """What is shown, at which scale, on which data."""
    facts = [told["data"]] if told["data"] else []
    if told["runs"]:
        facts.insert(0, f"preset {told['preset']}")
    over = spread_over(told)
    if over:
        facts.append(f"bars: standard deviation of {over}")
    return "\n".join([heading(told), *(["; ".join(facts)] if facts else [])])


def spread_over(told: Told) -> str:
    """What means and deviations are over, as "3 seeds"; "" where there are none."""
    count = max((len(row["ours"]["by_seed"]) for row in told["rows"]), default=0)
    return "" if count < 2 else told.get("over") or f"{count} seeds"


def heading(told: Told) -> str:
    """The paper's item and what it compares."""
    return f"{told['item'][0].upper()}{told['item'][1:]}: {told['title']}"


def by_size(axis: str, ordered: bool = True) -> Draw:
    """Draws rows that have a `size` and one more coordinate, `axis`.

    On the left as in the paper, over the models' parameters with a line for each value of `axis`
    and architecture (left out for a single size); on the right over the values, with a line for
    each size. Where rows have further coordinates, there is a line for each of their values as
    well.

    Args:
        axis: the other coordinate.
        ordered: False: its values have no order, so no line joins them.
    """

    def further(row: Told) -> str:
        named = row["coordinates"].items()
        return ", ".join(str(value) for name, value in named if name not in ("size", axis))

    def draw(figure: Any, told: Told) -> None:
        models = told["models"]
        place = {
            (row["coordinates"]["size"], row["coordinates"][axis], further(row)): row
            for row in told["rows"]
        }
        values = list(dict.fromkeys(value for _, value, _ in place))
        kinds = list(dict.fromkeys(kind for _, _, kind in place))
        labels = [label for label in models if any(size == label for size, _, _ in place)]
        both = figure.subplots(1, 2 if len(labels) > 1 else 1, sharey=True, squeeze=False)[0]
        if len(labels) > 1:
            labels.sort(key=lambda label: models[label]["parameters"])
            for i, (kind, value) in enumerate(itertools.product(kinds, values)):
                there = [label for label in labels if (label, value, kind) in place]
                name = _joined(str(value), kind)
                for alike in _by_architecture(there, models):
                    x = [models[label]["parameters"] for label in alike]
                    rows = [place[label, value, kind] for label in alike]
                    _line(both[0], x, rows, name, i)
                    name = f"_{name}"  # once in the legend
            size_axis(both[0], models, labels)
            both[0].set_ylabel(told["unit"])
            legend_beside(both[0], axis)
        lines = list(itertools.product(labels, kinds))
        for i, (label, kind) in enumerate(lines):
            there = [j for j, value in enumerate(values) if (label, value, kind) in place]
            rows = [place[label, values[j], kind] for j in there]
            aside = 0.0 if ordered else 0.08 * (i - (len(lines) - 1) / 2)
            x = [j + aside for j in there]
            _line(both[-1], x, rows, _joined(label, kind), i, "-" if ordered else "")
        letters = 40 if len(labels) > 1 else 90  # that a panel has room for, about
        width = min(13, letters // len(values))
        names = [textwrap.fill(str(value), width, break_long_words=False) for value in values]
        both[-1].set_xticks(range(len(values)), names)
        both[-1].margins(x=0.12)
        both[-1].set_xlabel(axis)
        if len(labels) == 1:
            both[-1].set_ylabel(told["unit"])
        for axes in both:
            axes.grid(alpha=0.3)
            if told["baseline"] is not None:
                label = "commonest label" if axes is both[-1] else None
                axes.axhline(told["baseline"], color="grey", linestyle=":", label=label)
        legend_beside(both[-1], "model")

    return draw


def _by_architecture(labels: Sequence[str], models: Told) -> list[list[str]]:
    """Models that a line may join: others differ in more than size."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(models[label]["architecture"], []).append(label)
    return list(alike.values())


def _joined(*words: str) -> str:
    return ", ".join(word for word in words if word)


def size_axis(axes: Any, models: Told, labels: Sequence[str]) -> None:
    """Marks models on a logarithmic axis of parameters."""
    counts = sorted(models[label]["parameters"] for label in labels)
    names = {
        models[label]["parameters"]: f"{label}\n{short(models[label]['parameters'])}"
        for label in labels
    }
    axes.set_xscale("log")
    places = [math.log(count / counts[0]) for count in counts]
    gaps = [after - before for before, after in itertools.pairwise(places)]
    crowded = min(gaps, default=1.0) < 0.2 * (places[-1] or 1.0)
    axes.set_xticks(
        counts,
        [names[count] for count in counts],
        rotation=35 if crowded else 0,
        ha="right" if crowded else "center",
    )
    axes.minorticks_off()
    axes.margins(x=0.12)
    axes.set_xlabel("model and its parameters")


def short(count: float) -> str:
    """A large number with three digits: 77.0M, 11.1B."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.3g}{letter}"
    return f"{count:g}"


def plain_numbers(axis: Any) -> None:
    """Labels a logarithmic axis without powers, which are formulas."""
    axis.set_major_formatter(lambda value, _: f"{value:g}")


def legend_beside(axes: Any, title: str) -> None:
    """Puts the legend where no point can be under it."""
    axes.legend(title=title, loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=9)


def _line(
    axes: Any,
    x: Sequence[float],
    rows: Sequence[Told],
    label: str,
    number: int,
    style: str = "-",
) -> None:
    drawn = [(at, row["ours"]) for at, row in zip(x, rows, strict=True)]
    drawn = [(at, ours) for at, ours in drawn if ours["mean"] is not None]
    axes.errorbar(
        [at for at, _ in drawn],
        [ours["mean"] for _, ours in drawn],
        yerr=[ours["deviation"] or 0.0 for _, ours in drawn],
        fmt=f"{MARKERS[number % len(MARKERS)]}{style}",
        color=f"C{number % 10}",
        capsize=3,
        markersize=5,
        label=label,
    )
    papers = [(at, row["paper"]) for at, row in zip(x, rows, strict=True) if row["paper"]]
    if papers:
        axes.plot(
            [at for at, _ in papers],
            [paper["value"] for _, paper in papers],
            f"{style}-" if style else "_",
            color=f"C{number % 10}",
            alpha=0.5,
            label=f"{label} (published)",
        )


def grouped(group: str, kind: str) -> Draw:
    """Draws rows of two coordinates: the values of `group` in a row, at each those of `kind`."""

    def draw(figure: Any, told: Told) -> None:
        axes = figure.subplots()
        rows = told["rows"]
        draw_groups(axes, rows, group, kind, distinct(rows, kind))
        axes.set_ylabel(told["unit"])
        legend_beside(axes, kind)

    return draw


def draw_groups(
    axes: Any, rows: Sequence[Told], group: str, kind: str, kinds: Sequence[Any]
) -> None:
    """As `grouped`, on axes and of some rows.

    Args:
        axes: to draw on.
        rows: of the figure.
        group: the coordinate whose values stand in a row.
        kind: the other one.
        kinds: its values, each with a marker by its place; rows need not have all.
    """
    groups = distinct(rows, group)
    for i, each in enumerate(kinds):
        own = [row for row in rows if row["coordinates"][kind] == each]
        aside = 0.12 * (i - (len(kinds) - 1) / 2)
        x = [groups.index(row["coordinates"][group]) + aside for row in own]
        _line(axes, x, own, str(each), i, "")
    axes.set_xticks(range(len(groups)), [textwrap.fill(str(each), 16) for each in groups])
    axes.set_xlim(-0.5, len(groups) - 0.5)
    axes.set_xlabel(group)
    axes.grid(alpha=0.3, axis="y")


def distinct(rows: Sequence[Told], name: str) -> list[Any]:
    """The values of a coordinate, in the order of the rows."""
    return list(dict.fromkeys(row["coordinates"][name] for row in rows))
