"""Which batches of an epoch a measurement takes, and what its rounds come to."""

import dataclasses
import statistics
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import numpy as np


def spread(sizes: Sequence[int] | np.ndarray, rounds: int, steps: int) -> np.ndarray:
    """Picks batches so that each round has short and long ones in the epoch's proportion.

    The batches are ordered by size and every k-th is taken. Rounds of consecutive batches would
    differ by chance, above all where batches are grouped by length.

    Args:
        sizes: tokens of each batch of the epoch, padding included: [n].
        rounds: number of rounds.
        steps: batches a round.

    Returns:
        Indexes of batches, int64 [rounds, steps], each round in a random order that depends on
        nothing but its number. No batch is taken twice while there are enough.
    """
    order = np.argsort(np.asarray(sizes), kind="stable")
    step, round_ = np.arange(steps)[None, :], np.arange(rounds)[:, None]
    quantiles = (step + (round_ + 0.5) / rounds) / steps
    picked = order[(quantiles * len(order)).astype(np.int64)]
    return np.stack([np.random.default_rng(r).permutation(row) for r, row in enumerate(picked)])


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one side did in its turn.

    Attributes:
        seconds: wall time.
        examples: rows gone through.
        peak_memory_bytes: of the process until then.
    """

    seconds: float
    examples: int
    peak_memory_bytes: int

    @property
    def examples_per_second(self) -> float:
        """Speed."""
        return self.examples / self.seconds


@dataclasses.dataclass(frozen=True)
class Round(Turn):
    """A turn of training.

    Attributes:
        tokens: of inputs and targets together, without padding.
        padded_tokens: the same with padding.
        flops: that the steps need at least, as `step_flops` counts them; None: not counted.
    """

    tokens: int
    padded_tokens: int
    flops: int | None = None


AnyTurn = TypeVar("AnyTurn", bound=Turn)


@dataclasses.dataclass(frozen=True)
class Side(Generic[AnyTurn]):
    """One side of a comparison.

    Attributes:
        name: what it is called in the table.
        about: the worker's answer to its setup.
        rounds: its turns, in the order of the other sides' turns.
    """

    name: str
    about: dict[str, Any]
    rounds: list[AnyTurn]

    @property
    def examples_per_second(self) -> float:
        """The median over rounds."""
        return statistics.median(r.examples_per_second for r in self.rounds)

    @property
    def peak_memory_bytes(self) -> int:
        """Of the whole process, loading and compiling included."""
        return max(r.peak_memory_bytes for r in self.rounds)

    def ratios(self, other: "Side[AnyTurn]") -> list[float]:
        """Its speed in units of the other's, for each round."""
        return [
            a.examples_per_second / b.examples_per_second
            for a, b in zip(self.rounds, other.rounds, strict=True)
        ]
