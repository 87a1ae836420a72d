"""Which examples an epoch of one or several tasks has, as a function of (seed, epoch)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from softprompt_jax.data.tokenization import TokenizedExamples


@dataclasses.dataclass(frozen=True)
class Mixing:
    """The training examples of several tasks, one after the other in one `TokenizedExamples`.

    Without rates an epoch is every example once, so tasks come in proportion to their examples.
    With rates an epoch is about as long, but each task has its share of it: a small task is gone
    through several times, of a large one every epoch takes the next part.

    Attributes:
        counts: examples of each task, at least 1.
        rates: relative share of each task, positive; None: by the number of examples.
    """

    counts: tuple[int, ...]
    rates: tuple[float, ...] | None = None

    @property
    def rows_per_epoch(self) -> int:
        """The same for every epoch."""
        return sum(self._shares())

    def prompt_ids(self, rows: np.ndarray) -> np.ndarray:
        """The place in `counts` of each row's task, int32; 0 for a row of padding, which is -1."""
        ends = np.cumsum(self.counts)
        return np.searchsorted(ends, rows, side="right").astype(np.int32)

    def epoch(self, generator: np.random.Generator, seed: int, epoch: int) -> np.ndarray:
        """The rows of an epoch, int64, in an order that the generator draws.

        With rates, which rows these are depends on the seed and the epoch alone.
        """
        if self.rates is None:
            return generator.permutation(sum(self.counts))
        starts = np.cumsum([0, *self.counts])
        parts = [
            starts[task] + _part(seed, task, self.counts[task], epoch * share, share)
            for task, share in enumerate(self._shares())
        ]
        return generator.permutation(np.concatenate(parts))

    def _shares(self) -> tuple[int, ...]:
        """Rows of each task in an epoch."""
        if self.rates is None:
            return self.counts
        scale = sum(self.counts) / sum(self.rates)
        return tuple(max(1, round(scale * rate)) for rate in self.rates)


def limited_rates(counts: Sequence[int], limit: int) -> tuple[float, ...]:
    """Rates in proportion to the number of examples, none counted as more than the limit.

    References:
        Raffel et al. 2020, section 3.5.2 (examples-proportional mixing, artificial limit K).
    """
    return tuple(float(min(count, limit)) for count in counts)


def concatenate(parts: Sequence[TokenizedExamples]) -> TokenizedExamples:
    """The examples of several tasks, one after the other."""
    if len(parts) == 1:
        return parts[0]

    def joined(name: str) -> tuple[np.ndarray, np.ndarray]:
        offsets = [getattr(part, f"{name[:-1]}_offsets") for part in parts]
        flat = [getattr(part, name)[: each[-1]] for part, each in zip(parts, offsets, strict=True)]
        lengths = np.concatenate([np.diff(each) for each in offsets])
        return np.concatenate(flat), np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    inputs, input_offsets = joined("inputs")
    targets, target_offsets = joined("targets")
    return TokenizedExamples(
        inputs=inputs,
        input_offsets=input_offsets,
        targets=targets,
        target_offsets=target_offsets,
        truncated_inputs=sum(part.truncated_inputs for part in parts),
        truncated_targets=sum(part.truncated_targets for part in parts),
    )


def _part(seed: int, task: int, count: int, start: int, length: int) -> np.ndarray:
    """A stretch of the endless sequence of a task's examples, each pass in its own order."""
    first, last = start // count, (start + length - 1) // count
    passes = [
        np.random.default_rng([seed, task, number, 0]).permutation(count)
        for number in range(first, last + 1)
    ]
    offset = start - first * count
    return np.concatenate(passes)[offset : offset + length]
