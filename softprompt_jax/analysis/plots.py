"""The reports of analyses as figures."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from softprompt_jax import figures
from softprompt_jax.analysis.similarity import TITLES

_INCH = 3.6  # height of one row of axes


def save_png(report: Mapping[str, Any], path: Path) -> None:
    """Draws the report of any analysis into a PNG file, which is whole or absent.

    Raises:
        UserError: matplotlib is not installed.
    """
    kinds: dict[str, Callable[[Any, Mapping[str, Any]], None]] = {
        "neighbours": _neighbours,
        "labels": _labels,
        "similarity": _similarity,
        "waywardness": _waywardness,
        "trajectory": _trajectory,
    }
    draw = kinds[report["analysis"]]
    figures.save_png(path, lambda figure: draw(figure, report), (10, _INCH))


def _neighbours(figure: Any, report: Mapping[str, Any]) -> None:
    """The cosine of each position to its nearest token, beside that of random vectors."""
    axes = figure.subplots()
    for i, (name, prompt) in enumerate(report["prompts"].items()):
        cosines = [told["neighbours"][0]["cosine"] for told in prompt["positions"]]
        axes.plot(cosines, "o-", color=f"C{i}", markersize=4, label=_legible(name))
        label = "random vectors of the same norms" if i == 0 else None
        axes.plot(prompt["control_cosines"], "x", color=f"C{i}", markersize=4, label=label)
    axes.set(xlabel="position", ylabel="cosine to the nearest token", title=report["model"])
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend()


def _labels(figure: Any, report: Mapping[str, Any]) -> None:
    """The place of each label at each position, on a logarithmic scale."""
    prompts = report["prompts"]
    figure.set_size_inches(10, max(2.2, 1.0 + 0.9 * len(prompts) + 0.25 * _label_count(prompts)))
    images = []
    all_axes = figure.subplots(len(prompts), 1, squeeze=False)[:, 0]
    for axes, (name, prompt) in zip(all_axes, prompts.items(), strict=True):
        places = np.log10(np.asarray(prompt["ranks"], np.float64).T)
        top = np.log10(report["tokens"])
        images.append(axes.imshow(places, aspect="auto", cmap="viridis_r", vmin=0, vmax=top))
        names = [label["label"] for label in prompt["labels"]]
        axes.set_yticks(range(len(names)), names)
        axes.set_title(f"{name} ({prompt['init']})")
        axes.xaxis.get_major_locator().set_params(integer=True)
    all_axes[-1].set_xlabel("position")
    figure.colorbar(images[0], ax=list(all_axes), label="log10 of the label's place")


def _label_count(prompts: Mapping[str, Any]) -> int:
    return sum(len(prompt["labels"]) for prompt in prompts.values())


def _similarity(figure: Any, report: Mapping[str, Any]) -> None:
    """A heat map for each measure, and the mean vectors on their principal plane."""
    names, cosines = list(report["prompts"]), report["cosines"]
    side = 2.8 + 0.28 * len(names)
    figure.set_size_inches(side * (len(cosines) + 1), side)
    *maps, plane = figure.subplots(1, len(cosines) + 1)
    for i, (axes, (measure, matrix)) in enumerate(zip(maps, cosines.items(), strict=True)):
        image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names if i == 0 else [""] * len(names))
        axes.set_title(TITLES[measure])
        if len(names) <= 12:
            for (row, column), value in np.ndenumerate(np.asarray(matrix)):
                color = "white" if abs(value) > 0.6 else "black"
                axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=color)
        figure.colorbar(image, ax=axes, shrink=0.7)
    for i, (name, (x, y)) in enumerate(zip(names, report["plane"], strict=True)):
        plane.plot(x, y, "o", color=f"C{i % 10}")
        plane.annotate(name, (x, y), xytext=(4, 4), textcoords="offset points")
    plane.margins(0.2)
    first, second = report["plane_shares"]
    plane.set(
        xlabel=f"first component ({first:.0%} of variance)",
        ylabel=f"second component ({second:.0%})",
        title="mean vectors",
    )


def _waywardness(figure: Any, report: Mapping[str, Any]) -> None:
    """Losses as bars, and how far each position is from its nearest token."""
    losses, distances = figure.subplots(1, 2)
    names = list(report["prompts"])
    kinds = {"trained": "trained", "discretised": "as its nearest tokens", "text": "as the text"}
    used = [kind for kind in kinds if kind in report["prompts"][names[0]]]
    width = 0.8 / len(used)
    for i, kind in enumerate(used):
        heights = [report["prompts"][name][kind]["loss"] for name in names]
        places = np.arange(len(names)) + (i - (len(used) - 1) / 2) * width
        losses.bar(places, heights, width, label=kinds[kind])
    losses.set_xticks(range(len(names)), names)
    losses.set(ylabel="loss, nats a target token", title=f"{report['task']}, {report['model']}")
    losses.legend()
    for name in names:
        tokens = report["prompts"][name]["discretised"]["tokens"]
        far = [token["distance"] for token in tokens]
        distances.plot(far, "o-", markersize=4, label=_legible(name))
    distances.set(xlabel="position", ylabel="distance to the nearest token", ylim=(0, None))
    distances.xaxis.get_major_locator().set_params(integer=True)
    distances.legend()


def _trajectory(figure: Any, report: Mapping[str, Any]) -> None:
    """Distances and cosines over the steps."""
    distances, cosines = figure.subplots(1, 2)
    points = report["points"]
    steps = [point["step"] for point in points]
    distances.plot(steps, [point["from_start"] for point in points], "o-", label="from the start")
    moves = [np.nan if p["from_last"] is None else p["from_last"] for p in points]
    distances.plot(steps, moves, "s--", label="from the point before")
    distances.set(xlabel="step", ylabel="distance", title=report["run"])
    distances.legend()
    for field, label in (("cosine_with_start", "the start"), ("cosine_with_end", "the end")):
        cosines.plot(steps, [point[field] for point in points], "o-", label=f"with {label}")
    cosines.set(xlabel="step", ylabel="cosine")
    cosines.legend()


def _legible(name: str) -> str:
    """Matplotlib leaves names that begin with _ out of a legend."""
    return f" {name}" if name.startswith("_") else name
