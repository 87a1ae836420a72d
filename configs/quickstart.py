"""Sentiment of film reviews with SmolLM2-135M, frozen, and a prompt of 20 virtual tokens.

python -m softprompt_jax.train --config configs/quickstart.py
"""

from softprompt_jax.config import (
    ModelOptions,
    PromptOptions,
    RunConfig,
    TaskOptions,
    TrainOptions,
)

config = RunConfig(
    workdir="runs/quickstart",
    model=ModelOptions(name="smollm2-135m"),
    prompt=PromptOptions(length=20, init="class_labels"),
    task=TaskOptions(name="movie_reviews", max_input_length=60, max_target_length=4),
    train=TrainOptions(steps=100, batch_size=16, evaluate_every=50, evaluate_batch_size=32),
)
