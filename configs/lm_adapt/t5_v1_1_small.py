"""LM adaptation of T5 1.1 small, as Lester et al. 2021 (section 2.2) did it for all sizes.

    python -m softprompt_jax.pretrain --config configs/lm_adapt/t5_v1_1_small.py

The paper's 100,000 steps take a TPU slice. Other sizes are adapted in folders of their own, where
figure 3(d) looks for them: `--model.name google/t5-v1_1-xl --workdir runs/t5-v1_1-xl-lm` and so on.
It needs `pip install -e '.[tfds]'` and a copy of C4 that is prepared already (`--corpus.data-dir`),
which tensorflow-datasets makes on a cluster only. The steps see 6.6 billion tokens; C4 has 156
billion (Dodge et al. 2021), so 5 % of it are enough, and take 16 GB as tokens, 32 GB for a while.
`--corpus.tfds None --corpus.train-files my.txt --corpus.validation-files held_out.txt` takes other
text. It was not run here: neither the model nor C4 was at hand.
"""

from softprompt_jax.config import ModelOptions, OptimizerOptions, TrainOptions
from softprompt_jax.pretraining.config import CorpusOptions, PretrainConfig

config = PretrainConfig(
    workdir="runs/t5-v1_1-small-lm",
    model=ModelOptions(name="google/t5-v1_1-small"),
    corpus=CorpusOptions(
        tfds="c4/en", tfds_split="train[:5%]", objective="prefix_lm", input_length=512
    ),
    # T5's schedule goes on where pre-training stopped, at a million steps: 1 / sqrt(step).
    optimizer=OptimizerOptions(name="adafactor", learning_rate=0.001, weight_decay=0.0),
    train=TrainOptions(
        method="model_tuning",
        steps=100_000,
        batch_size=128,
        evaluate_every=1_000,
        keep_steps=(0, 10_000, 50_000, 100_000),
    ),
)
