"""The options of `softprompt_jax.analyze`."""

import argparse

from softprompt_jax.analysis.similarity import MEASURES
from softprompt_jax.analysis.transfer import RIDGE
from softprompt_jax.inference.setup import add_model_options


def _report(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", help="file for the report as one JSON object; default: none")
    parser.add_argument("--png", help="file for the report as a figure; default: none")


def _vocabulary(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-special",
        action="store_true",
        help="leave out special tokens, single bytes and parts of characters",
    )


def _prompts(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--prompts", required=True, help="prompt folders, set apart by commas: NAME=FOLDER,…"
    )
    parser.add_argument("--model", help="as load_model takes it; default: the prompts' own")
    _dtype(parser)
    _vocabulary(parser)
    parser.add_argument("--k", type=int, default=5, help="neighbours a position; default: 5")


def _dtype(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="of the weights; auto: bfloat16 on TPU and GPU, float32 on CPU; default: auto",
    )


def neighbours(parser: argparse.ArgumentParser) -> None:
    """Of `analyze neighbours`."""
    _prompts(parser)
    parser.add_argument("--seed", type=int, default=0, help="of the random vectors; default: 0")
    _report(parser)


def labels(parser: argparse.ArgumentParser) -> None:
    """Of `analyze labels`."""
    _prompts(parser)
    parser.add_argument("--labels", help="set apart by commas; default: those on the cards")
    _report(parser)


def similarity(parser: argparse.ArgumentParser) -> None:
    """Of `analyze similarity`."""
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--prompts", help="prompt folders, set apart by commas: NAME=FOLDER,…")
    given.add_argument("--folder", help="folder with prompts in it, at any depth")
    _report(parser)


def waywardness(parser: argparse.ArgumentParser) -> None:
    """Of `analyze waywardness`."""
    add_model_options(parser)
    _vocabulary(parser)
    parser.add_argument(
        "--task",
        help="name of the task, which --config FILE and the --task.… options of "
        "softprompt_jax.train change; default: the one on the prompts' cards",
    )
    parser.add_argument("--split", default="validation", help="of the task; default: validation")
    parser.add_argument("--examples", type=int, help="the first so many examples; default: all")
    parser.add_argument("--text", help="a text to compare the prompts with; default: none")
    _report(parser)


def trajectory(parser: argparse.ArgumentParser) -> None:
    """Of `analyze trajectory`."""
    parser.add_argument("--run", required=True, help="folder of a training run")
    parser.add_argument("--model", help="as load_model takes it; default: the run's own")
    _dtype(parser)
    _vocabulary(parser)
    _report(parser)


def retrieve(parser: argparse.ArgumentParser) -> None:
    """Of `analyze retrieve`."""
    parser.add_argument("--target", required=True, help="prompt folder of the target task")
    parser.add_argument("--folder", required=True, help="folder with source prompts in it")
    parser.add_argument(
        "--measure",
        choices=list(MEASURES),
        default="mean",
        help="mean: cosine of mean vectors; all_pairs and position: mean cosine of positions; "
        "default: mean",
    )
    parser.add_argument(
        "--top", type=int, default=1, help="average so many by their similarity; default: 1"
    )
    parser.add_argument(
        "--output", help="prompt folder for the best source, or the average; default: none"
    )


def combine(parser: argparse.ArgumentParser) -> None:
    """Of `analyze combine`."""
    parser.add_argument("--prompts", required=True, help="prompt folders, set apart by commas")
    parser.add_argument(
        "--weights",
        help="of each prompt, set apart by commas, taken as given (--weights=-1,2 where the first "
        "is negative); default: the mean",
    )
    parser.add_argument("--output", required=True, help="prompt folder to write")


def recycle(parser: argparse.ArgumentParser) -> None:
    """Of `analyze recycle`."""
    parser.add_argument("--prompt", required=True, help="prompt folder")
    parser.add_argument("--model", help="that it was trained on; default: the prompt's own")
    parser.add_argument("--to", required=True, help="model that it is to be for")
    _dtype(parser)
    parser.add_argument(
        "--ridge",
        type=float,
        help="weight of the ridge term; default: 0 where the shared tokens determine the map, "
        f"else {RIDGE}",
    )
    parser.add_argument("--most", type=int, help="shared tokens to use at most; default: all")
    parser.add_argument("--output", required=True, help="prompt folder to write")
