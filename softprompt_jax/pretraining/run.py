"""`pretrain`: span corruption or LM adaptation of a T5, by the loop that all training takes."""

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from softprompt_jax.config_checks import check
from softprompt_jax.data import Shape
from softprompt_jax.data.splits import Split
from softprompt_jax.errors import UserError
from softprompt_jax.models import LanguageModel, resolve_model
from softprompt_jax.models.families import ModelConfig
from softprompt_jax.models.known_shapes import model_config, raw_config
from softprompt_jax.models.loading import ModelFiles, load_tokenizer
from softprompt_jax.models.random_weights import random_model
from softprompt_jax.pretraining.config import PretrainConfig, check_pretraining
from softprompt_jax.pretraining.corpus import check_corpus, read_corpus
from softprompt_jax.pretraining.examples import (
    CorpusStream,
    Objective,
    PrefixLM,
    SpanCorruption,
    validation_rows,
)
from softprompt_jax.prompts import PromptedModel
from softprompt_jax.training import processes
from softprompt_jax.training.evaluation import Evaluator
from softprompt_jax.training.flops import step_flops
from softprompt_jax.training.loop import run
from softprompt_jax.training.parallel import Layout
from softprompt_jax.training.setup import (
    check_freeze,
    load_placed,
    place,
    resolve_dtype,
    resolve_scan,
    run_layout,
    set_memory,
)
from softprompt_jax.training.workdir import TrainResult, Workdir


def pretrain(config: PretrainConfig) -> TrainResult:
    """Pre-trains a T5, or goes on with the run that its folder holds.

    Args:
        config: the run.

    Returns:
        The metrics of the best evaluation. The run's folder holds what that of `train` holds;
        `best/` and `kept/` have models as `load_model` reads them.

    Raises:
        UserError: a mistake in the config, found before the model's weights are read.
        DivergedError: loss or gradient was not finite.
        LostProcessError: another process of the job ended.

    References:
        T5 (Raffel et al. 2020), section 3.1; Lester, Al-Rfou, Constant 2021, section 2.2.
    """
    check(config)
    check_pretraining(config)
    check_corpus(config.corpus)
    processes.join(config.parallel)
    with processes.telling_of_deaths():
        return _pretrain(config)


def _pretrain(config: PretrainConfig) -> TrainResult:
    started = time.monotonic()

    # ---------------------------------------------------------------- what is asked for
    name = config.model.name
    files = None if config.from_scratch else resolve_model(name)
    architecture = model_config(name) if files is None else files.config
    if not architecture.is_encoder_decoder:
        raise UserError(f"{name} is no T5; only T5 models are pre-trained here.")
    check_freeze(config, architecture)
    layout = run_layout(config, architecture)
    if files is None or config.tokenizer is not None:
        tokenizer = load_tokenizer(config.tokenizer or name)
    else:
        tokenizer = files.load_tokenizer()
    _check_tokenizer(tokenizer, name, architecture)
    if files is not None:
        files = files.with_tokenizer(tokenizer)  # what is kept has the one that it was trained with
    objective = _objective(config, tokenizer, architecture)
    with processes.first_one_first():
        workdir = Workdir(config)
    with workdir:  # it is this run's until the end, also in a notebook
        return workdir.result() or _run(
            config, workdir, layout, files, architecture, tokenizer, objective, started=started
        )


def _run(
    config: PretrainConfig,
    workdir: Workdir,
    layout: Layout,
    files: ModelFiles | None,
    architecture: ModelConfig,
    tokenizer: Any,
    objective: Objective,
    *,
    started: float,
) -> TrainResult:
    options, corpus = config.train, config.corpus

    # ----------------------------------------------------------------------------- data
    cache = Path(corpus.cache_dir or Path(config.workdir) / "cache")
    with processes.first_one_first():  # the others find its tokens in the cache
        tokens = read_corpus(corpus, "train", tokenizer, architecture.eos_ids[0], cache)
        held_out = read_corpus(corpus, "validation", tokenizer, architecture.eos_ids[0], cache)
    rows = validation_rows(held_out, objective, corpus.validation_examples)

    # -------------------------------------------------------------------- model and state
    if files is None:
        model = _random_model(config, layout, tokenizer)
    else:
        model = load_placed(config, files, layout)
    _ = model.fingerprint  # kept from now on: the step is given the memory of these weights
    prepared = place(config, PromptedModel(model.module, None), layout)
    evaluator = Evaluator(
        prepared.graphdef,
        architecture,
        tokenizer,
        shapes=objective.shapes,
        batch_size=options.evaluate_batch_size or options.batch_size,
        max_target_length=1,
        layout=layout,
    )
    split = Split(rows, references=[], label_counts={})
    subject = CorpusSubject(config, architecture, objective, tokens, split, evaluator)
    return run(config, workdir, layout, model, prepared, subject, started=started)


@dataclass(frozen=True)
class CorpusSubject:
    """Plain text as what a run learns from and is judged by; see `loop.Subject`.

    Attributes:
        config: the run.
        model_config: of the model.
        objective: that makes examples.
        tokens: ids of the text to train on.
        held_out: examples to measure on.
        evaluator: that measures.
    """

    config: PretrainConfig
    model_config: ModelConfig
    objective: Objective
    tokens: np.ndarray
    held_out: Split
    evaluator: Evaluator

    labels: tuple[tuple[str, ...], ...] = ()
    has_test: bool = False

    @property
    def name(self) -> str:
        """The objective."""
        return self.config.corpus.objective

    def describe(self) -> str:
        """The data, for people."""
        batch_size = self.config.train.batch_size
        texts = self.stream(0, np.arange(batch_size)).texts_per_epoch
        shapes = ", ".join(f"{each.inputs}+{each.targets}" for each in self.objective.shapes)
        return (
            f"{len(self.tokens):,} tokens of text; {texts:,} examples of {self.objective.length} "
            f"tokens an epoch ({shapes} input + target); {self.config.train.steps:,} steps of "
            f"{batch_size} are {self.config.train.steps * batch_size / texts:.2f} epochs. "
            f"Measured on {len(self.held_out.examples):,} examples."
        )

    def stream(self, position: int, own: np.ndarray) -> CorpusStream:
        """Training batches from a position on, of this process's rows."""
        options = self.config.train
        return CorpusStream(
            self.tokens,
            self.objective,
            options.batch_size,
            self.config.seed,
            position=position,
            own=own,
        )

    def step_flops(self, shape: Shape) -> int:
        """The least FLOPs of a step on a batch of a shape."""
        return step_flops(self.model_config, shape, self.config.train.batch_size, 0, "model_tuning")

    def validate(self, trainable: Any, frozen: Any) -> tuple[dict[str, float], float]:
        """Log-likelihood a target token, in nats, and perplexity."""
        metrics = self.evaluator.likelihood(trainable, frozen, self.held_out)
        named = {f"validation/{metric}": value for metric, value in metrics.items()}
        return named, metrics["log_likelihood"]

    def test(self, trainable: Any, frozen: Any) -> dict[str, float]:
        """Nothing is left to measure."""
        return {}


def _check_tokenizer(tokenizer: Any, name: str, architecture: ModelConfig) -> None:
    """Refuses a tokenizer whose ids the model would take for others, or has no rows for."""
    if len(tokenizer) > architecture.vocab_size:
        raise UserError(
            f"The tokenizer has {len(tokenizer)} tokens, but {name} has rows for "
            f"{architecture.vocab_size} only; choose another --tokenizer."
        )
    if tokenizer.eos_token_id is None or tokenizer.eos_token_id not in architecture.eos_ids[:1]:
        raise UserError(
            f"The tokenizer ends a text by the id {tokenizer.eos_token_id}, but {name} by "
            f"{architecture.eos_ids[0] if architecture.eos_ids else None}; choose another "
            "--tokenizer, or mend eos_token_id in the model's config.json."
        )


def _objective(config: PretrainConfig, tokenizer: Any, architecture: ModelConfig) -> Objective:
    eos_id = architecture.eos_ids[0]
    if config.corpus.objective == "prefix_lm":
        return PrefixLM(config.corpus, eos_id)
    vocabulary = tokenizer.get_vocab()
    names = map("<extra_id_{}>".format, itertools.count())
    sentinels = [vocabulary[name] for name in itertools.takewhile(vocabulary.__contains__, names)]
    if not sentinels:
        raise UserError(
            "The tokenizer has no <extra_id_0>, which span corruption needs; choose a T5's with "
            "--tokenizer, or --corpus.objective prefix_lm."
        )
    return SpanCorruption(config.corpus, np.array(sentinels, np.int32), eos_id)


def _random_model(config: PretrainConfig, layout: Layout, tokenizer: Any) -> LanguageModel:
    model = random_model(
        config.model.name,
        raw_config(config.model.name),
        dtype=resolve_dtype(config, layout.platform),
        seed=config.seed,
        load_tokenizer=lambda: tokenizer,
        stacked=resolve_scan(config),
    )
    set_memory(config, model.module, layout)
    return model
