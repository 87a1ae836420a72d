"""`python -m softprompt_jax.pretrain`: pre-trains or LM-adapts a T5 on plain text.

    python -m softprompt_jax.pretrain --config configs/lm_adapt/t5_v1_1_small.py

`--help` lists every option with its default.
"""

import sys
from collections.abc import Sequence

from softprompt_jax.command_line import load_command_config, run_command
from softprompt_jax.pretraining.config import PretrainConfig
from softprompt_jax.pretraining.run import pretrain
from softprompt_jax.training import processes
from softprompt_jax.training.interrupt import INTERRUPTED
from softprompt_jax.training.report import report


def main(arguments: Sequence[str]) -> int:
    """Trains, and prints what came of it; `INTERRUPTED` where the run waits to be continued."""
    config = load_command_config(arguments, PretrainConfig, "softprompt_jax.pretrain", __doc__)
    result = pretrain(config)
    if not result.finished:
        return INTERRUPTED
    if processes.is_first():
        print(report(result, config.model.name))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
