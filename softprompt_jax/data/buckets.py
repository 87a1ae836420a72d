"""Which few shapes batches have, so that little of them is padding.

Each shape is compiled once, so there may be only a handful; among all choices of that many, the one
with the fewest padded tokens is found exactly by dynamic programming over the lengths' histogram.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Shape(NamedTuple):
    """Tokens that the rows of a batch are padded to."""

    inputs: int
    targets: int


def plan_buckets(lengths: np.ndarray | Sequence[int], max_buckets: int = 6) -> tuple[int, ...]:
    """Bucket lengths that leave the fewest padded tokens when each row goes to the next longer one.

    Args:
        lengths: int [n], the rows' lengths, all at least 1.
        max_buckets: number of buckets at most.

    Returns:
        Ascending lengths; the last one holds the longest row. Fewer than `max_buckets` when more
        would save nothing.
    """
    return _curve(_checked(lengths), max_buckets)[-1][1]


def plan_shapes(
    input_lengths: np.ndarray | Sequence[int],
    target_lengths: np.ndarray | Sequence[int],
    max_shapes: int = 6,
) -> tuple[Shape, ...]:
    """Batch shapes that leave few padded tokens in inputs and targets together.

    Rows are grouped by target length first, each group has buckets of input lengths, and the number
    of groups and of buckets in each is the best one. Tasks with labels, whose targets are nearly of
    one length, get one group.

    Args:
        input_lengths: int [n], all at least 1.
        target_lengths: int [n], all at least 1.
        max_shapes: number of shapes at most.

    Returns:
        Shapes in ascending order of size; the last one holds every row.
    """
    inputs = _checked(input_lengths)
    targets = _checked(target_lengths)
    plans = []
    for groups in range(1, max_shapes + 1):
        edges = plan_buckets(targets, groups)
        if len(edges) < groups:
            break
        plans.append(_plan_groups(inputs, targets, edges, max_shapes))
    shapes = min(plans, key=lambda plan: (plan[0], len(plan[1])))[1]
    return tuple(sorted(shapes, key=lambda shape: (shape.inputs + shape.targets, shape)))


def _plan_groups(
    inputs: np.ndarray, targets: np.ndarray, edges: tuple[int, ...], max_shapes: int
) -> tuple[int, list[Shape]]:
    """The best shapes for given groups of target lengths, and their tokens with padding."""
    group = np.searchsorted(edges, targets)
    # best[k]: fewest padded tokens of the groups so far with k shapes, and those shapes.
    best: dict[int, tuple[int, list[Shape]]] = {0: (0, [])}
    for g, edge in enumerate(edges):
        lengths = inputs[group == g]
        # The last shape has to hold every row: leftovers of other shapes end there.
        longest = int(inputs.max()) if g == len(edges) - 1 else 0
        curve = _curve(lengths, max_shapes - len(edges) + 1, longest)
        extended: dict[int, tuple[int, list[Shape]]] = {}
        for used, (cost, shapes) in best.items():
            for bucket_cost, buckets in curve:
                total = cost + bucket_cost + edge * len(lengths)
                count = used + len(buckets)
                if count <= max_shapes and (count not in extended or total < extended[count][0]):
                    extended[count] = total, shapes + [Shape(b, edge) for b in buckets]
        best = extended
    return min(best.values(), key=lambda plan: (plan[0], len(plan[1])))


def _curve(
    lengths: np.ndarray, max_buckets: int, longest: int = 0
) -> list[tuple[int, tuple[int, ...]]]:
    """For 1, 2, … buckets: tokens with padding, and the best bucket lengths.

    Stops where one more bucket saves nothing. `longest`: the last bucket is at least this long.
    """
    values, counts = np.unique(lengths, return_counts=True)
    if longest > values[-1]:
        values, counts = np.append(values, longest), np.append(counts, 0)
    rows = np.concatenate([[0], np.cumsum(counts)])  # rows[j]: rows shorter than values[j]
    # cost[j]: fewest tokens of the j shortest lengths in k buckets; cuts[k][j]: where the last
    # bucket of that optimum starts.
    n = len(values)
    cost = rows[1:] * values
    cost = np.concatenate([[0], cost])
    cuts = [np.zeros(n + 1, np.int64)]
    curve = [(int(cost[n]), (int(values[-1]),))]
    for _ in range(1, min(max_buckets, n)):
        cut = np.zeros(n + 1, np.int64)
        new = cost.copy()
        for j in range(1, n + 1):
            totals = cost[:j] + values[j - 1] * (rows[j] - rows[:j])
            cut[j] = np.argmin(totals)
            new[j] = totals[cut[j]]
        if new[n] == cost[n]:
            break
        cost = new
        cuts.append(cut)
        edges, j = [], n
        for layer in reversed(cuts):
            edges.append(int(values[j - 1]))
            j = int(layer[j])
        curve.append((int(cost[n]), tuple(reversed(edges))))
    return curve


def _checked(lengths: np.ndarray | Sequence[int]) -> np.ndarray:
    array = np.asarray(lengths, np.int64)
    if array.ndim != 1 or not array.size or array.min() < 1:
        raise ValueError("lengths must be one row of numbers that are at least 1")
    return array
