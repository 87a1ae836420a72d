"""The paper's setting, T5 1.1 with a prompt of 100 tokens at 512 + 100 positions, to plan with.

    python -m softprompt_jax.plan --config configs/plan_t5.py --topology v5e:1x1

`--model.name google/t5-xl-lm-adapt --train.remat full` and so on plan the other sizes.
"""

from softprompt_jax.config import (
    ModelOptions,
    PromptOptions,
    RunConfig,
    TaskOptions,
    TrainOptions,
)

config = RunConfig(
    workdir="runs/boolq",
    model=ModelOptions(name="google/t5-base-lm-adapt"),
    prompt=PromptOptions(length=100, init="class_labels"),
    task=TaskOptions(name="super_glue/boolq", max_input_length=512, max_target_length=8),
    train=TrainOptions(steps=30_000, batch_size=32, evaluate_every=1_000),
)
