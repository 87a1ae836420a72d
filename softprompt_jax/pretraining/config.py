"""What a pre-training run is, beyond what all runs have."""

import dataclasses
from typing import Literal

from softprompt_jax.config import BaseConfig, ModelOptions, TrainOptions
from softprompt_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class CorpusOptions:
    """Plain text, and the examples that are made of it."""

    train_files: tuple[str, ...] = ()
    """Text files, UTF-8: a paragraph a line, documents parted by a blank line."""
    validation_files: tuple[str, ...] = ()
    """Text files of the same kind that are measured on, and never trained on."""
    tfds: str | None = None
    """A data set of tensorflow-datasets whose examples have a "text", as in c4/en, with its splits
    train and validation; instead of files."""
    tfds_split: str = "train"
    """Of `tfds`, what is trained on: a split or a slice of one, as in train[:5%]. All of it is
    turned to tokens before the first step, of 2 or 4 bytes each, twice that while they are
    shuffled."""
    data_dir: str | None = None
    """Folder of tensorflow-datasets; None: TFDS_DATA_DIR, or its own default."""
    objective: Literal["span_corruption", "prefix_lm"] = "span_corruption"
    """span_corruption: tell the spans that sentinels stand for (T5, section 3.1.4); prefix_lm: go
    on with a text, which is LM adaptation (Lester et al. 2021, section 2.2)."""
    input_length: int = 512
    """Tokens of an input, sentinels and end of sequence included; of prefix_lm, tokens of input and
    target together."""
    noise_density: float = 0.15
    """Share of the tokens that span_corruption takes out."""
    mean_span_length: float = 3.0
    """Mean length of a span that is taken out, in tokens."""
    prefix_lengths: int | None = 8
    """How many different cuts prefix_lm makes: a batch has one of them, so nothing is padded, and
    each compiles once; None: every row its own, padded to the whole length, as T5 has it."""
    validation_examples: int = 1024
    """Examples of the validation text, the same at every evaluation."""
    cache_dir: str | None = None
    """Folder that keeps the corpus as tokens; None: `cache` in the run's folder."""


_NANO = ModelOptions(name="t5-nano")
_WHOLE_MODEL = TrainOptions(method="model_tuning")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PretrainConfig(BaseConfig):
    """Everything that decides what a pre-training run computes."""

    model: ModelOptions = _NANO
    corpus: CorpusOptions = CorpusOptions()
    train: TrainOptions = _WHOLE_MODEL
    from_scratch: bool = False
    """Begin with random weights in the shape of the model, not with the model's own."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer; None: the model's own."""
    workdir: str = "runs/pretraining"
    """Folder of the run: config, metrics, checkpoints, the best model and the result."""


def check_pretraining(config: PretrainConfig) -> None:
    """Refuses values that no pre-training run can have; `config_checks.check` has the others.

    Raises:
        UserError: names the option and what it may be.
    """
    corpus = config.corpus
    if config.train.method != "model_tuning":
        raise UserError("Pre-training trains the whole model; leave out --train.method.")
    for option, instead in (
        ("evaluate_examples", "--corpus.validation_examples is for that"),
        ("max_shapes", "--corpus.prefix_lengths gives the shapes of prefix_lm"),
    ):
        if getattr(config.train, option) != getattr(TrainOptions(), option):
            raise UserError(f"Pre-training has no --train.{option}; leave it out, {instead}.")
    if config.optimizer.learning_rate is None:
        raise UserError(
            "Pre-training has no default learning rate; give --optimizer.learning_rate."
        )
    if (corpus.tfds is None) == (not corpus.train_files):
        raise UserError("Give the text as --corpus.train_files or as --corpus.tfds, one of them.")
    if corpus.train_files and not corpus.validation_files:
        raise UserError("There is nothing to measure on; give --corpus.validation_files.")
    if corpus.tfds is not None and corpus.validation_files:
        raise UserError(
            f"{corpus.tfds} has a validation split of its own; leave out --corpus.validation_files."
        )
    if corpus.tfds is None and corpus.data_dir is not None:
        raise UserError("--corpus.data_dir is of --corpus.tfds; give both or neither.")
    for option, objective in (
        ("noise_density", "span_corruption"),
        ("mean_span_length", "span_corruption"),
        ("prefix_lengths", "prefix_lm"),
    ):
        given = getattr(corpus, option) != getattr(CorpusOptions(), option)
        if given and corpus.objective != objective:
            raise UserError(
                f"--corpus.{option} is of --corpus.objective {objective}; give both or neither."
            )
    if corpus.input_length < 16:
        raise UserError(f"--corpus.input_length is {corpus.input_length}; it must be at least 16.")
    if not 0 < corpus.noise_density < 1:
        raise UserError(f"--corpus.noise_density is {corpus.noise_density}; it must be in (0, 1).")
    if corpus.mean_span_length < 1:
        raise UserError(
            f"--corpus.mean_span_length is {corpus.mean_span_length}; it must be at least 1."
        )
    if corpus.validation_examples < 1:
        raise UserError(
            f"--corpus.validation_examples is {corpus.validation_examples}; it must be at least 1."
        )
    cuts = corpus.prefix_lengths
    if (
        corpus.objective == "prefix_lm"
        and cuts is not None
        and not 1 <= cuts <= corpus.input_length // 4
    ):
        raise UserError(
            f"--corpus.prefix_lengths is {cuts}; it must be in 1 to {corpus.input_length // 4}, a "
            "quarter of --corpus.input_length."
        )
