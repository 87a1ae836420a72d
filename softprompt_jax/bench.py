"""`python -m softprompt_jax.bench`: how fast it is, beside what you would use instead.

    python -m softprompt_jax.bench train --against peft
    python -m softprompt_jax.bench train --against none --train.batch_size 32
    python -m softprompt_jax.bench train --shape google/t5-v1_1-base --lengths multirc
    python -m softprompt_jax.bench predict --against peft

`train` measures training steps. The recipe is `configs/quickstart.py` unless `--config` names
another, and every option of `softprompt_jax.train` changes it; `--shape` and `--lengths` need
neither weights nor data. With `--against peft` a recipe that PEFT's side does not follow is
refused. `predict` measures answers to rows of mixed tasks, each task with a prompt of its own. The
last line of the output is one JSON object.
"""

import sys
from collections.abc import Sequence
from typing import Any

from softprompt_jax.benchmarks import prediction, training
from softprompt_jax.benchmarks.worker import check_installed
from softprompt_jax.benchmarks.workload import LENGTHS, Workload
from softprompt_jax.command_line import KindParser, Parser, load_command_config, run_command
from softprompt_jax.errors import UserError

RECIPE = "configs/quickstart.py"


def main(arguments: Sequence[str]) -> int:
    """Measures and prints."""
    parser = Parser("softprompt_jax.bench", __doc__)
    kinds = parser.add_subparsers(
        dest="what", required=True, metavar="{train,predict}", parser_class=KindParser
    )
    train = kinds.add_parser(
        "train",
        help="training steps",
        description="Measures training steps. --config FILE takes a recipe (default: "
        f"{RECIPE}), and\nevery option of softprompt_jax.train changes it; --against peft refuses "
        "what PEFT's side\ndoes not follow.",
    )
    _add_sides(train, rounds=6)
    train.add_argument(
        "--steps-per-round", type=int, default=12, help="training steps a turn; default: 12"
    )
    train.add_argument(
        "--shape",
        help="random weights in the shape of this model (a hub id, or as load_model takes it); "
        "needs --lengths; default: the recipe's model and its weights",
    )
    train.add_argument(
        "--lengths",
        choices=sorted(LENGTHS),
        help="random rows with as many tokens as this task's have; default: the recipe's data",
    )
    train.add_argument(
        "--padding",
        choices=["own", "equal"],
        default="own",
        help="own: each side pads as its users do; equal: all sides train on the very same "
        "batches, all padded to the longest row; default: own",
    )
    predict = kinds.add_parser(
        "predict",
        help="classification and generation, mixed tasks",
        description="Measures answers to rows of mixed tasks, classified and generated.",
    )
    _add_sides(predict, rounds=3)
    predict.add_argument(
        "--model",
        default="smollm2-135m",
        help="a causal model as load_model takes it; default: smollm2-135m",
    )
    for option, default, what in (
        ("--prompts", 8, "tasks, each with a prompt of its own"),
        ("--prompt-length", 100, "virtual tokens of a prompt"),
        ("--batch-size", 16, "rows a batch"),
        ("--max-new-tokens", 32, "tokens of a generated answer"),
        ("--rows-per-round", 256, "rows that are classified a turn"),
        ("--generated-rows-per-round", 128, "of these, rows that are answered with text too"),
    ):
        predict.add_argument(option, type=int, default=default, help=f"{what}; default: {default}")
    options, rest = parser.parse_known_args(arguments)
    for name, value in vars(options).items():
        if isinstance(value, int) and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
    if options.what == "train":
        return _train(options, rest)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return _predict(options)


def _add_sides(parser: Any, rounds: int) -> None:
    """The options that all kinds have."""
    parser.add_argument(
        "--against",
        choices=["peft", "none"],
        default="peft",
        help="the other side: PEFT on torch, or nothing; default: peft",
    )
    parser.add_argument(
        "--rounds", type=int, default=rounds, help=f"turns that each side gets; default: {rounds}"
    )


def _train(options: Any, rest: Sequence[str]) -> int:
    if not any(argument.split("=")[0] == "--config" for argument in rest):
        rest = ["--config", RECIPE, *rest]
    config = load_command_config(rest)
    workload = Workload(options.shape, options.lengths, options.padding)
    if options.against == "peft":
        training.check_comparison(config)
    workload.check()
    config, fields = workload.apply(config), workload._asdict()
    comparison = training.compare(
        config, fields, options.against, options.rounds, options.steps_per_round
    )
    print(training.report(config, fields, comparison))
    print(training.to_json(comparison))
    return 0


def _predict(options: Any) -> int:
    for name in ("rows_per_round", "generated_rows_per_round"):
        # Our side compiles the shape of full batches only.
        if (value := getattr(options, name)) < options.batch_size:
            raise UserError(
                f"--{name.replace('_', '-')} is {value}; it must be at least --batch-size, which "
                f"is {options.batch_size}."
            )
    if options.against == "peft":
        check_installed()
    chosen = prediction.Options(**{n: getattr(options, n) for n in prediction.Options._fields})
    comparison = prediction.compare(chosen)
    print(prediction.report(chosen, comparison))
    print(prediction.to_json(chosen, comparison))
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
