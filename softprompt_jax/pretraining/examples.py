"""From a corpus to batches, which are a function of (seed, position)."""

import abc

import numpy as np

from softprompt_jax.data import Shape, TokenizedExamples
from softprompt_jax.data.batches import HostBatch
from softprompt_jax.errors import UserError
from softprompt_jax.pretraining import span_corruption
from softprompt_jax.pretraining.config import CorpusOptions


class Objective(abc.ABC):
    """What is made of a text.

    Attributes:
        length: tokens of a text that one example is made of.
        shapes: that examples may have, end of sequence included.
    """

    length: int
    shapes: tuple[Shape, ...]

    @abc.abstractmethod
    def batch(self, texts: np.ndarray, generator: np.random.Generator) -> HostBatch:
        """Examples of one of the shapes.

        Args:
            texts: ids `[B, length]`.
            generator: of what is random.

        Returns:
            A batch as training takes it.
        """


class SpanCorruption(Objective):
    """T5's objective, in which every example has the same lengths.

    Args:
        options: of the corpus.
        sentinel_ids: in the order of their use.
        eos_id: of `</s>`.

    Raises:
        UserError: the input has more spans than there are sentinels.
    """

    def __init__(self, options: CorpusOptions, sentinel_ids: np.ndarray, eos_id: int):
        self._noise = options.noise_density, options.mean_span_length
        self._sentinels, self._eos_id = sentinel_ids, eos_id
        try:
            self.length, _ = span_corruption.lengths(options.input_length, *self._noise)
            any_text = np.zeros((1, self.length), np.int32)
            example = self.batch(any_text, np.random.default_rng(0))
        except ValueError as error:
            raise UserError(
                f"Spans cannot be taken out of {self.length} tokens like this ({error}); mend "
                "--corpus.input_length, --corpus.noise_density or --corpus.mean_span_length."
            ) from None
        self.shapes = (Shape(example["inputs"].shape[1], example["targets"].shape[1]),)

    def batch(self, texts: np.ndarray, generator: np.random.Generator) -> HostBatch:
        """Texts with spans taken out, and what was taken out."""
        mask = span_corruption.random_spans_noise_mask(
            self.length, generator, *self._noise, rows=len(texts)
        )
        inputs, targets = span_corruption.corrupt(texts, mask, self._sentinels, self._eos_id)
        return _batch(inputs, targets)


class PrefixLM(Objective):
    """The beginning of a text, and how it goes on: LM adaptation.

    Args:
        options: of the corpus.
        eos_id: of `</s>`.
    """

    def __init__(self, options: CorpusOptions, eos_id: int):
        self._eos_id = eos_id
        self.length = options.input_length - 2  # both parts end with EOS
        self._cuts = None
        self.shapes = (Shape(self.length, self.length),)
        if options.prefix_lengths is not None:
            parts = options.prefix_lengths + 1
            self._cuts = [self.length * part // parts for part in range(1, parts)]
            self.shapes = tuple(Shape(cut + 1, self.length - cut + 1) for cut in self._cuts)

    def batch(self, texts: np.ndarray, generator: np.random.Generator) -> HostBatch:
        """Texts that are all cut at one place, or each at its own."""
        if self._cuts is None:
            inputs, targets, input_lengths, target_lengths = span_corruption.prefix_lm(
                texts, generator, self._eos_id
            )
            place = np.arange(self.length)
            return _batch(
                inputs, targets, place < input_lengths[:, None], place < target_lengths[:, None]
            )
        cut = self._cuts[generator.integers(len(self._cuts))]
        end = np.full((len(texts), 1), self._eos_id, texts.dtype)
        return _batch(
            np.concatenate([texts[:, :cut], end], axis=1),
            np.concatenate([texts[:, cut:], end], axis=1),
        )


def _batch(
    inputs: np.ndarray,
    targets: np.ndarray,
    input_mask: np.ndarray | None = None,
    target_mask: np.ndarray | None = None,
) -> HostBatch:
    return {
        "inputs": inputs.astype(np.int32),
        "input_mask": np.ones(inputs.shape, bool) if input_mask is None else input_mask,
        "targets": targets.astype(np.int32),
        "target_mask": np.ones(targets.shape, bool) if target_mask is None else target_mask,
        "prompt_ids": np.zeros(len(inputs), np.int32),
    }


class CorpusStream:
    """Endless training batches; see `training.loop.Stream`.

    An epoch goes through the corpus once, cut into texts of the objective's length, at other places
    in each epoch and in an order of its own. What becomes of a text is random too, so that no two
    epochs have the same examples.

    Args:
        tokens: ids of the corpus, one document after the other.
        objective: that makes examples of them.
        batch_size: examples a batch.
        seed: of the order and of the examples.
        position: where to start.
        own: int `[n]`, this process's rows of every batch; None: all.

    Attributes:
        position: number of batches given so far, the whole state.
        texts_per_epoch: the same for every epoch; what is left of the corpus is less than two.

    Raises:
        UserError: the corpus has fewer than two texts.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        objective: Objective,
        batch_size: int,
        seed: int,
        *,
        position: int = 0,
        own: np.ndarray | None = None,
    ):
        self.position = position
        self.texts_per_epoch = len(tokens) // objective.length - 1
        if self.texts_per_epoch < 1:
            raise UserError(
                f"The text has {len(tokens)} tokens, too few to be cut into texts of "
                f"{objective.length}; give more of it, or a smaller --corpus.input_length."
            )
        self._tokens, self._objective = tokens, objective
        self._batch_size, self._seed = batch_size, seed
        self._own = np.arange(batch_size) if own is None else own
        self._starts: tuple[int, np.ndarray] | None = None
        self._made: tuple[int, HostBatch] | None = None

    def __next__(self) -> HostBatch:
        batch = self._batch(self.position)
        self.position += 1
        return {name: rows[self._own] for name, rows in batch.items()}

    def tokens(self, position: int) -> tuple[int, int]:
        """Real tokens of the whole batch at a position, and tokens with padding."""
        batch = self._batch(position)
        masks = batch["input_mask"], batch["target_mask"]
        return sum(int(mask.sum()) for mask in masks), sum(mask.size for mask in masks)

    def _batch(self, position: int) -> HostBatch:
        if self._made is None or self._made[0] != position:
            first = position * self._batch_size
            places = [self._start_of(first + row) for row in range(self._batch_size)]
            texts = np.stack([self._tokens[at : at + self._objective.length] for at in places])
            generator = np.random.default_rng([self._seed, 1, position])
            self._made = position, self._objective.batch(texts, generator)
        return self._made[1]

    def _start_of(self, index: int) -> int:
        """Where in the corpus the text of so many texts later than the very first begins."""
        epoch, number = divmod(index, self.texts_per_epoch)
        if self._starts is None or self._starts[0] != epoch:
            generator = np.random.default_rng([self._seed, 0, epoch])
            length = self._objective.length
            offset = generator.integers(length)
            starts = offset + length * generator.permutation(self.texts_per_epoch)
            self._starts = epoch, starts
        return int(self._starts[1][number])


def validation_rows(tokens: np.ndarray, objective: Objective, rows: int) -> TokenizedExamples:
    """The examples to measure on: the first texts, the same whatever the run's seed.

    Args:
        tokens: ids of the validation text.
        objective: that makes examples of them.
        rows: at most.

    Raises:
        UserError: the text is too short for one.
    """
    count = min(rows, len(tokens) // objective.length)
    if count == 0:
        raise UserError(
            f"The validation text has {len(tokens)} tokens, fewer than an example takes "
            f"({objective.length}); give more of it, or a smaller --corpus.input_length."
        )
    texts = tokens[: count * objective.length].reshape(count, objective.length)
    # One by one: a batch has one shape, and all of them are to be measured.
    parts = [
        objective.batch(text[None], np.random.default_rng([0, row]))
        for row, text in enumerate(texts)
    ]
    inputs = [part["inputs"][part["input_mask"]] for part in parts]
    targets = [part["targets"][part["target_mask"]] for part in parts]
    return TokenizedExamples.from_rows(inputs, targets)
