"""The recipes of the T5s that come with the package: one for all sizes, and what differs."""

import dataclasses
from pathlib import Path

from softprompt_jax.config import ModelOptions, OptimizerOptions, TrainOptions
from softprompt_jax.pretraining.config import CorpusOptions, PretrainConfig

NAMES = ("t5-nano", "t5-micro", "t5-mini")
STEPS = 4_000
"""Steps of span corruption: 1.4 times through the corpus."""
ADAPTATION = 0.25
"""Steps of LM adaptation, as a share of those before; Lester et al. 2021: 10 % of a million."""
KEPT = (0.0, 0.1, 0.5, 1.0)
"""Where in LM adaptation models are kept, for the paper's figure 3(d): 0, 10K, 50K and 100K."""

_CORPUS = CorpusOptions(
    train_files=("corpus/train.txt",),
    validation_files=("corpus/validation.txt",),
    input_length=256,
    cache_dir="corpus/tokens",
)
_TRAIN = TrainOptions(
    method="model_tuning",
    batch_size=32,
    evaluate_every=500,
    evaluate_batch_size=64,
    checkpoint_minutes=5.0,
    log_every=50,
)


def span_corruption(name: str, folder: str = "runs/pretraining") -> PretrainConfig:
    """The recipe that makes a size from random weights.

    Args:
        name: of `NAMES`.
        folder: of the runs.
    """
    return PretrainConfig(
        model=ModelOptions(name=name),
        from_scratch=True,
        tokenizer="corpus/vocabulary",
        corpus=_CORPUS,
        # T5's: updates are as large as a parameter's own scale times the rate.
        optimizer=OptimizerOptions(
            name="adafactor",
            learning_rate=0.02,
            warmup_steps=500,
            schedule="cosine",
            weight_decay=0.0,
        ),
        train=dataclasses.replace(_TRAIN, steps=STEPS),
        workdir=f"{folder}/{name}",
    )


def lm_adaptation(name: str, folder: str = "runs/pretraining") -> PretrainConfig:
    """The recipe that goes on from `span_corruption`'s best model.

    Args:
        name: of `NAMES`.
        folder: of the runs.
    """
    before = span_corruption(name, folder)
    steps = round(ADAPTATION * STEPS)
    return dataclasses.replace(
        before,
        model=ModelOptions(name=str(Path(before.workdir) / "best")),
        from_scratch=False,
        tokenizer=None,
        corpus=dataclasses.replace(_CORPUS, objective="prefix_lm"),
        optimizer=dataclasses.replace(before.optimizer, learning_rate=0.01, warmup_steps=100),
        train=dataclasses.replace(
            _TRAIN,
            steps=steps,
            evaluate_every=steps // 10,
            evaluate_first=True,
            keep_steps=tuple(round(share * steps) for share in KEPT),
        ),
        workdir=f"{before.workdir}-lm",
    )
