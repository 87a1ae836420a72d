"""Data that comes with the package: a table a task, cut into splits that never change."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from softprompt_jax.errors import UserError
from softprompt_jax.tasks.task import Example

SPLIT_SEED = 2021  # fixed: the splits are part of the task, whatever the seed of a run


@functools.cache
def load_splits(
    file: Path, example_of: Callable[[str], Example], test_rows: int, validation_rows: int
) -> dict[str, tuple[Example, ...]]:
    """The splits of a table: its rows in a fixed random order, cut into test, validation, train.

    Args:
        file: a line of headings, then a row a line.
        example_of: from a line to an example.
        test_rows: how many rows the test split has.
        validation_rows: likewise.

    Raises:
        UserError: the file is missing.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        raise UserError(
            f"The data of {file.stem}, {file}, is missing; install softprompt-jax again."
        ) from None
    # Not splitlines, which takes some characters within a text for ends of lines.
    examples = [example_of(line) for line in text.removesuffix("\n").split("\n")[1:]]
    # RandomState, unlike Generator, promises the same stream in every version of numpy.
    order = np.random.RandomState(SPLIT_SEED).permutation(len(examples))
    shuffled = [examples[i] for i in order]
    middle = test_rows + validation_rows
    return {
        "test": tuple(shuffled[:test_rows]),
        "validation": tuple(shuffled[test_rows:middle]),
        "train": tuple(shuffled[middle:]),
    }
