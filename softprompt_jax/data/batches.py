"""From tokenised examples to padded batches, in an order that is a function of (seed, position)."""

from collections.abc import Iterator, Sequence

import numpy as np

from softprompt_jax.data.buckets import Shape
from softprompt_jax.data.mixing import Mixing
from softprompt_jax.data.tokenization import TokenizedExamples

HostBatch = dict[str, np.ndarray]
"""A batch before it is on a device, by the names of `prompts.prompted_model.Batch`."""


def assemble_batch(
    examples: TokenizedExamples,
    rows: np.ndarray,
    shape: tuple[int, int],
    mixing: Mixing | None = None,
) -> HostBatch:
    """The padded batch of some rows.

    Args:
        examples: the split.
        rows: int [B], indexes into it; -1 for a row of padding, which has no target and one real
            input token, so that attention has something to look at.
        shape: tokens (S, T) that inputs and targets are padded to on the right.
        mixing: which rows belong to which task; None: all to one.

    Returns:
        `inputs` int32 [B, S], `input_mask` bool [B, S], `targets` int32 [B, T], `target_mask` bool
        [B, T], `prompt_ids` int32 [B], the place of each row's task in the mixture. Padding holds
        id 0; the masks alone say what is real.
    """
    inputs, input_mask = _pad(examples.inputs, examples.input_offsets, rows, shape[0])
    targets, target_mask = _pad(examples.targets, examples.target_offsets, rows, shape[1])
    padding = rows < 0
    inputs[padding, 0] = examples.inputs[0]
    input_mask[padding, 0] = True
    return {
        "inputs": inputs,
        "input_mask": input_mask,
        "targets": targets,
        "target_mask": target_mask,
        "prompt_ids": np.zeros(len(rows), np.int32) if mixing is None else mixing.prompt_ids(rows),
    }


class BatchStream:
    """Endless training batches with an exact state.

    An epoch is one seeded order of rows (`Mixing.epoch`): they are grouped by the smallest shape
    that holds them and cut into full batches, what is left of a shape joins the next larger one,
    and the batches are shuffled. Less than one batch of rows is left out of each epoch; a split
    smaller than a batch is repeated to fill one.

    Args:
        examples: the rows.
        shapes: tokens that batches may be padded to.
        batch_size: rows a batch.
        seed: of the order.
        position: where to start.
        mixing: which rows belong to which task, and how often each task comes; None: one task.
        own: int [n], places in every batch of the rows that this process needs: batches are made of
            these only; None: all. The order of the data does not depend on it.

    Attributes:
        position: number of batches given so far, the whole state: a stream made with it continues
            exactly there.
        batches_per_epoch: the same for every epoch.
    """

    def __init__(
        self,
        examples: TokenizedExamples,
        shapes: Sequence[tuple[int, int]],
        batch_size: int,
        seed: int,
        *,
        position: int = 0,
        mixing: Mixing | None = None,
        own: np.ndarray | None = None,
    ):
        if batch_size < 1 or position < 0:
            raise ValueError(f"batch_size {batch_size}, position {position}")
        self.examples = examples
        self.shapes = _sorted(shapes)
        self.batch_size = batch_size
        self.seed = seed
        self.position = position
        self.mixing = Mixing((len(examples),)) if mixing is None else mixing
        self.own = np.arange(batch_size) if own is None else own
        self.batches_per_epoch = max(1, self.mixing.rows_per_epoch // batch_size)
        self._lengths = examples.input_lengths + examples.target_lengths
        self._shape_of_row = _assign(examples, self.shapes)
        self._next_larger = _next_larger(self.shapes)
        self._planned: tuple[int, list[tuple[Shape, np.ndarray]]] | None = None

    def __iter__(self) -> Iterator[HostBatch]:
        return self

    def __next__(self) -> HostBatch:
        shape, rows = self.rows(self.position)
        self.position += 1
        return assemble_batch(self.examples, rows[self.own], shape, self.mixing)

    def tokens(self, position: int) -> tuple[int, int]:
        """Real tokens of the whole batch at a position, and tokens with padding."""
        shape, rows = self.rows(position)
        return int(self._lengths[rows].sum()), len(rows) * sum(shape)

    def rows(self, position: int) -> tuple[Shape, np.ndarray]:
        """The shape and the example indexes, int [batch_size], of the batch at a position."""
        epoch, index = divmod(position, self.batches_per_epoch)
        if self._planned is None or self._planned[0] != epoch:
            self._planned = epoch, self._plan(epoch)
        return self._planned[1][index]

    def _plan(self, epoch: int) -> list[tuple[Shape, np.ndarray]]:
        generator = np.random.default_rng([self.seed, epoch])
        order = self.mixing.epoch(generator, self.seed, epoch)
        if len(order) < self.batch_size:
            order = np.resize(order, self.batch_size)
        shape_of_row = self._shape_of_row[order]
        waiting = [[order[shape_of_row == k]] for k in range(len(self.shapes))]
        batches = []
        for k, shape in enumerate(self.shapes):
            rows = np.concatenate(waiting[k])
            full = len(rows) // self.batch_size * self.batch_size
            batches += [(shape, part) for part in rows[:full].reshape(-1, self.batch_size)]
            if k + 1 < len(self.shapes):
                # In front, so that rows that were left over once are not left over again.
                waiting[self._next_larger[k]].insert(0, rows[full:])
        return [batches[i] for i in generator.permutation(len(batches))]


def evaluation_batches(
    examples: TokenizedExamples,
    shapes: Sequence[tuple[int, int]],
    batch_size: int,
    own: np.ndarray | None = None,
) -> Iterator[tuple[HostBatch, np.ndarray]]:
    """Every example once, grouped by shape.

    Args:
        examples: the split.
        shapes: tokens that batches may be padded to.
        batch_size: rows a batch.
        own: int [n], places in every batch of the rows that this process needs; None: all.

    Yields:
        A batch, of the own rows only, and the indexes of all its examples, int64 [batch_size]. The
        last batch of a shape is filled up with rows of index -1 whose `target_mask` is False
        everywhere.
    """
    own = np.arange(batch_size) if own is None else own
    shapes = _sorted(shapes)
    shape_of_row = _assign(examples, shapes)
    for k, shape in enumerate(shapes):
        rows = np.flatnonzero(shape_of_row == k)
        filled = np.full(-(-len(rows) // batch_size) * batch_size, -1, np.int64)
        filled[: len(rows)] = rows
        for part in filled.reshape(-1, batch_size):
            yield assemble_batch(examples, part[own], shape), part


def padding_share(
    examples: TokenizedExamples,
    shapes: Sequence[tuple[int, int]],
    batch_size: int,
    seed: int = 0,
    mixing: Mixing | None = None,
) -> float:
    """Share of padding among all input and target tokens of the first training epoch, in [0, 1)."""
    stream = BatchStream(examples, shapes, batch_size, seed, mixing=mixing)
    counts = [stream.tokens(position) for position in range(stream.batches_per_epoch)]
    return 1 - sum(real for real, _ in counts) / sum(total for _, total in counts)


def _sorted(shapes: Sequence[tuple[int, int]]) -> list[Shape]:
    unique = {Shape(*shape) for shape in shapes}
    return sorted(unique, key=lambda shape: (sum(shape), shape))


def _assign(examples: TokenizedExamples, shapes: Sequence[Shape]) -> np.ndarray:
    """The index of the smallest shape that holds each row: int64 [n]."""
    inputs, targets = examples.input_lengths, examples.target_lengths
    chosen = np.full(len(examples), -1, np.int64)
    for k in reversed(range(len(shapes))):
        chosen[(inputs <= shapes[k].inputs) & (targets <= shapes[k].targets)] = k
    if (chosen < 0).any():
        row = int(np.argmax(chosen < 0))
        raise ValueError(
            f"row {row} with {inputs[row]} + {targets[row]} tokens fits none of the shapes {shapes}"
        )
    return chosen


def _next_larger(shapes: Sequence[Shape]) -> list[int]:
    """For each shape but the last, the smallest one that holds all of its rows."""
    result = []
    for k, shape in enumerate(shapes[:-1]):
        larger = [
            j
            for j in range(k + 1, len(shapes))
            if shapes[j].inputs >= shape.inputs and shapes[j].targets >= shape.targets
        ]
        if not larger:
            raise ValueError(f"no shape holds the leftovers of {shape}; the last of {shapes} must")
        result.append(larger[0])
    return result


def _pad(
    flat: np.ndarray, offsets: np.ndarray, rows: np.ndarray, width: int
) -> tuple[np.ndarray, np.ndarray]:
    starts = offsets[rows]
    lengths = np.where(rows < 0, 0, offsets[rows + 1] - starts)
    columns = np.arange(width)
    mask = columns[None, :] < lengths[:, None]
    padded = np.zeros(mask.shape, np.int32)
    padded[mask] = flat[(starts[:, None] + columns[None, :])[mask]]
    return padded, mask
