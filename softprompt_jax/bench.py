"""`python -m softprompt_jax.bench train`: how fast training is, beside what you would use instead.

    python -m softprompt_jax.bench train --against peft
    python -m softprompt_jax.bench train --against none --train.batch_size 32

The recipe is `configs/quickstart.py` unless `--config` names another, and every option of
`softprompt_jax.train` changes it. The last line of the output is one JSON object.
"""

import sys
from collections.abc import Sequence

from softprompt_jax.benchmarks.training import check_comparison, compare, report, to_json
from softprompt_jax.command_line import Parser, load_command_config, run_command
from softprompt_jax.errors import UserError

RECIPE = "configs/quickstart.py"


def main(arguments: Sequence[str]) -> int:
    """Measures and prints."""
    parser = Parser("softprompt_jax.bench", __doc__)
    parser.add_argument("what", choices=["train"], help="what is measured")
    parser.add_argument(
        "--against",
        choices=["peft", "none"],
        default="peft",
        help="the other side: PEFT on torch, or nothing; default: peft",
    )
    parser.add_argument(
        "--rounds", type=int, default=6, help="turns that each side gets; default: 6"
    )
    parser.add_argument(
        "--steps-per-round", type=int, default=12, help="training steps a turn; default: 12"
    )
    options, rest = parser.parse_known_args(arguments)
    for name in ("rounds", "steps_per_round"):
        if (value := getattr(options, name)) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
    if not any(argument.split("=")[0] == "--config" for argument in rest):
        rest = ["--config", RECIPE, *rest]
    config = load_command_config(rest)
    if options.against == "peft":
        check_comparison(config)
    sides = compare(config, options.against, options.rounds, options.steps_per_round)
    print(report(config, sides))
    print(to_json(sides))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
