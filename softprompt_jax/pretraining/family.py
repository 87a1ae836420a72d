"""The recipes of the T5s that come with the package: one for all sizes, and what differs."""

import dataclasses
from pathlib import Path

from softprompt_jax.config import ModelOptions, OptimizerOptions, TrainOptions
from softprompt_jax.models import load_model, save_model
from softprompt_jax.models.known_shapes import raw_config
from softprompt_jax.pretraining.config import CorpusOptions, PretrainConfig
from softprompt_jax.pretraining.growth import grown

NAMES = ("t5-nano", "t5-micro", "t5-mini")
STEPS = 4_000
"""Steps of span corruption from random weights: 1.4 times through the corpus."""
GROWN = {"t5-mini": "t5-micro"}
"""What is not made of random weights, and the model of the package that it is grown from."""
GROWN_STEPS = 1_200
"""Steps of span corruption of what is grown."""
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
    """The recipe that makes a size from random weights, or from a smaller one that was grown.

    Args:
        name: of `NAMES`.
        folder: of the runs; of what is grown, `grow` has to write its start there first.
    """
    is_grown = name in GROWN
    return PretrainConfig(
        model=ModelOptions(name=f"{folder}/{name}-grown" if is_grown else name),
        from_scratch=not is_grown,
        tokenizer=None if is_grown else "corpus/vocabulary",
        corpus=_CORPUS,
        # T5's: updates are as large as a parameter's own scale times the rate.
        optimizer=OptimizerOptions(
            name="adafactor",
            learning_rate=0.02,
            warmup_steps=100 if is_grown else 500,
            schedule="cosine",
            weight_decay=0.0,
        ),
        train=dataclasses.replace(_TRAIN, steps=GROWN_STEPS if is_grown else STEPS),
        workdir=f"{folder}/{name}",
    )


def grow(name: str, folder: str = "runs/pretraining") -> None:
    """Writes what a size of `GROWN` starts from, unless it is there."""
    start = Path(span_corruption(name, folder).model.name)
    if not start.is_dir():
        start.parent.mkdir(parents=True, exist_ok=True)
        small = load_model(GROWN[name], dtype="float32")
        save_model(start, grown(small, name, raw_config(name)))


def lm_adaptation(name: str, folder: str = "runs/pretraining") -> PretrainConfig:
    """The recipe that goes on from `span_corruption`'s best model.

    Args:
        name: of `NAMES`.
        folder: of the runs.
    """
    before = span_corruption(name, folder)
    steps = round(ADAPTATION * before.train.steps)
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
