"""What the sides of the training benchmark train: the recipe's model and data, or drawn ones."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from softprompt_jax.config import RunConfig
from softprompt_jax.data import TokenizedExamples
from softprompt_jax.data.buckets import Shape, plan_shapes
from softprompt_jax.data.mixing import Mixing
from softprompt_jax.data.preparation import prepare_data
from softprompt_jax.errors import UserError
from softprompt_jax.models import LanguageModel, resolve_model
from softprompt_jax.models.families import ModelConfig, config_from_hf
from softprompt_jax.models.known_shapes import raw_config
from softprompt_jax.models.random_weights import random_model
from softprompt_jax.tasks import Task
from softprompt_jax.training.parallel import Layout
from softprompt_jax.training.setup import (
    load_placed,
    resolve_dtype,
    resolve_scan,
    set_memory,
    tasks_from_options,
)

ROWS = 4096  # of drawn data


class Lengths(NamedTuple):
    """How token counts are drawn: inputs log-normally, cut; targets all alike.

    Attributes:
        median: of the inputs before they are cut.
        sigma: standard deviation of their logarithm.
        longest: where they are cut.
        targets: tokens of every target, end of sequence included.
    """

    median: float
    sigma: float
    longest: int
    targets: int

    def draw(self, rows: int, seed: int) -> np.ndarray:
        """Input lengths, int64 [rows], all at least 1."""
        normal = np.random.default_rng(seed).standard_normal(rows)
        drawn = np.rint(self.median * np.exp(self.sigma * normal))
        return np.clip(drawn, 1, self.longest).astype(np.int64)


LENGTHS = {"multirc": Lengths(median=270.0, sigma=0.35, longest=512, targets=2)}
"""By task. MultiRC has paragraph, question and answer in an input: 270 tokens in the median; this
sigma cuts 3 % of them at 512."""


class Workload(NamedTuple):
    """What differs from the recipe.

    Attributes:
        shape: train random weights in the shape of this model; None: the recipe's model.
        lengths: train random ids in numbers as a task has them, of `LENGTHS`; None: the recipe's
            data.
        padding: "own": each side pads as its users do; "equal": both train on the very same
            batches, all padded to the longest row.
    """

    shape: str | None = None
    lengths: str | None = None
    padding: str = "own"

    def check(self) -> None:
        """Finds mistakes before anything is loaded.

        Raises:
            UserError: a shape without lengths, or a model that nobody knows.
        """
        if self.shape is None:
            return
        if self.lengths is None:
            raise UserError(
                f"--shape {self.shape} has no tokenizer to read data with; add --lengths "
                f"{'|'.join(LENGTHS)}."
            )
        raw_config(self.shape)

    def apply(self, config: RunConfig) -> RunConfig:
        """The recipe with what the workload changes in it."""
        if self.shape is not None:
            model = dataclasses.replace(config.model, name=self.shape)
            config = dataclasses.replace(config, model=model)
        if self.lengths is not None:
            # How the prompt starts has no influence on speed, and other starts need a tokenizer.
            prompt = dataclasses.replace(config.prompt, init="random_uniform")
            config = dataclasses.replace(config, prompt=prompt)
        return config


class Material(NamedTuple):
    """Found or drawn, the same in every process that asks for the same.

    Attributes:
        model_config: the architecture.
        tasks: of the recipe's data; none for drawn data.
        examples: the rows.
        mixing: of the rows.
        shapes: that batches are padded to.
        load: the model, placed as a layout has it (None: on the default device, as it comes).
    """

    model_config: ModelConfig
    tasks: list[Task]
    examples: TokenizedExamples
    mixing: Mixing
    shapes: tuple[Shape, ...]
    load: Callable[[Layout | None, str], LanguageModel]


def prepare(config: RunConfig, workload: Workload) -> Material:
    """Finds or draws model and rows; weights are not read before `load`.

    Args:
        config: as `Workload.apply` gives it.
        workload: the same.

    Raises:
        UserError: a mistake in the recipe.
    """
    files = None if workload.shape is not None else resolve_model(config.model.name)
    raw = raw_config(config.model.name) if files is None else files.raw_config
    model_config = config_from_hf(raw) if files is None else files.config

    def load(layout: Layout | None, platform: str) -> LanguageModel:
        if files is None:
            return _random_model(config, raw, layout, platform)
        if layout is None:
            return files.load(resolve_dtype(config, platform))
        return load_placed(config, files, layout)

    if workload.lengths is not None:
        tasks: list[Task] = []
        examples = draw_examples(LENGTHS[workload.lengths], model_config.vocab_size, config.seed)
        mixing = Mixing((len(examples),))
        shapes = plan_shapes(
            examples.input_lengths, examples.target_lengths, config.train.max_shapes
        )
    else:
        assert files is not None
        tasks = tasks_from_options(config.task)
        data = prepare_data(config, tasks, [], files.load_tokenizer(), files.config)
        examples, mixing, shapes = data.examples, data.mixing, data.shapes
    if workload.padding == "equal":
        shapes = (Shape(int(examples.input_lengths.max()), int(examples.target_lengths.max())),)
    return Material(model_config, tasks, examples, mixing, shapes, load)


def draw_examples(
    lengths: Lengths, vocab_size: int, seed: int, rows: int = ROWS
) -> TokenizedExamples:
    """Rows of random ids, without the first few, which special tokens mostly have.

    Args:
        lengths: of the rows.
        vocab_size: ids are smaller.
        seed: of lengths and ids.
        rows: how many.
    """
    generator = np.random.default_rng([seed, 1])
    input_offsets = np.concatenate([[0], np.cumsum(lengths.draw(rows, seed))])
    target_offsets = np.arange(rows + 1, dtype=np.int64) * lengths.targets
    special = min(10, vocab_size - 1)
    inputs, targets = (
        generator.integers(special, vocab_size, offsets[-1], dtype=np.int32)
        for offsets in (input_offsets, target_offsets)
    )
    return TokenizedExamples(inputs, input_offsets, targets, target_offsets)


class _NoTokenizer:
    """What a model without texts has in a tokenizer's place."""

    vocab_files_names: Mapping[str, str] = types.MappingProxyType({})

    def save_pretrained(self, folder: Any) -> None:
        """Writes nothing."""


def _random_model(
    config: RunConfig, raw: dict[str, Any], layout: Layout | None, platform: str
) -> LanguageModel:
    """Built where it is used: no file is read."""
    model = random_model(
        config.model.name,
        raw,
        dtype=resolve_dtype(config, platform),
        seed=config.seed,
        load_tokenizer=_NoTokenizer,
        stacked=layout is not None and resolve_scan(config),
    )
    if layout is not None:
        set_memory(config, model.module, layout)
    return model
