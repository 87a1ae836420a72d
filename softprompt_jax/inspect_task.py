"""`python -m softprompt_jax.inspect_task`: what a run would read, before it runs.

    python -m softprompt_jax.inspect_task --config configs/quickstart.py

Prints the report that training begins with (examples, label shares, token lengths, what is cut,
duplicates between splits, the shapes that will be compiled) and some examples as the model sees
them. Every option of `softprompt_jax.train` changes the recipe. No weights are read.
"""

import json
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from softprompt_jax.analysis.vocabulary import token_texts
from softprompt_jax.command_line import Parser, load_command_config, run_command
from softprompt_jax.config import RunConfig
from softprompt_jax.data.cache import TokenCache
from softprompt_jax.data.preparation import prepare_data
from softprompt_jax.data.report import describe_run, run_as_dict
from softprompt_jax.data.splits import cache_folder
from softprompt_jax.data.tokenization import TokenizedExamples
from softprompt_jax.errors import UserError
from softprompt_jax.models import resolve_model
from softprompt_jax.training.setup import tasks_from_options, transfer_tasks


def main(arguments: Sequence[str]) -> int:
    """Reads, tokenises and prints."""
    parser = Parser("softprompt_jax.inspect_task", __doc__)
    parser.add_argument(
        "--examples", type=int, default=5, help="training examples of each task shown; default: 5"
    )
    parser.add_argument(
        "--json", action="store_true", help="print the report as one JSON object, and no examples"
    )
    options, rest = parser.parse_known_args(arguments)
    if options.examples < 0:
        raise UserError(f"--examples is {options.examples}; it must be at least 0.")
    config = load_command_config(rest)
    files = resolve_model(config.model.name)
    tasks = tasks_from_options(config.task, config.evaluate_on)
    transfer = transfer_tasks(config)
    tokenizer = files.load_tokenizer()
    cache = TokenCache(cache_folder(config.task, config.workdir))
    data = prepare_data(config, tasks, transfer, tokenizer, files.config, cache)
    if options.json:
        print(json.dumps(run_as_dict(config, tasks, transfer, data)))
        return 0
    print(describe_run(config, tasks, transfer, data))
    for task, splits in zip(tasks, data.splits, strict=True):
        examples = splits["train"].examples
        for number in range(min(options.examples, len(examples))):
            print()
            print(f"{task.name}, training example {number + 1}:")
            print("\n".join(as_the_model_sees(examples, number, tokenizer, config)))
    return 0


def as_the_model_sees(
    examples: TokenizedExamples, row: int, tokenizer: Any, config: RunConfig
) -> list[str]:
    """One example in lines: the prompt's place, the tokens that are read and those to be said."""
    prompt = ""
    if config.train.method == "prompt_tuning":
        prompt = f"[{config.prompt.length} prompt vectors] "
    inputs = _row(examples.inputs, examples.input_offsets, row)
    targets = _row(examples.targets, examples.target_offsets, row)
    return [
        f"  input, {len(inputs)} tokens: {prompt}{_pieces(inputs, tokenizer)}",
        f"  target, {len(targets)} tokens: {_pieces(targets, tokenizer)}",
    ]


def _row(flat: np.ndarray, offsets: np.ndarray, row: int) -> list[int]:
    return flat[offsets[row] : offsets[row + 1]].tolist()


def _pieces(ids: list[int], tokenizer: Any) -> str:
    """The tokens, set apart by bars; ▁ stands for a space, ⏎ for a line's end."""
    texts = token_texts(tokenizer, ids)
    return "|".join(text.replace(" ", "▁").replace("\n", "⏎") for text in texts)


if __name__ == "__main__":
    sys.exit(run_command(main))
