"""`python -m softprompt_jax.train`: trains a soft prompt by a recipe.

    python -m softprompt_jax.train --config configs/quickstart.py --train.steps 200

`--help` lists every option with its default.
"""

import sys
from collections.abc import Sequence

from softprompt_jax.command_line import load_command_config, run_command
from softprompt_jax.config import RunConfig
from softprompt_jax.training import processes
from softprompt_jax.training.interrupt import INTERRUPTED
from softprompt_jax.training.report import report
from softprompt_jax.training.tuning import train


def main(arguments: Sequence[str]) -> int:
    """Trains, and prints what came of it; `INTERRUPTED` where the run waits to be continued."""
    config = load_command_config(arguments, RunConfig, "softprompt_jax.train", __doc__)
    result = train(config)
    if not result.finished:
        return INTERRUPTED
    if processes.is_first():
        print(report(result, config.model.name))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
