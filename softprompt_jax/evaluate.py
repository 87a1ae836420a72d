r"""`python -m softprompt_jax.evaluate`: how good prompts are at a task, alone and as an ensemble.

    python -m softprompt_jax.evaluate --prompts runs/1/best,runs/2/best,runs/3/best \
      --task super_glue/boolq --ensemble

Every prompt answers every example of the split, in one pass that mixes the prompts in a batch. The
report has each prompt's metrics, their mean and standard deviation (over n - 1) and the best
prompt; with --ensemble also

- the majority vote: of labels with equally many votes the one with the higher log-likelihood summed
  over all prompts wins, of texts the one that comes first in the prompts' order,
- the label with the highest probability averaged over the prompts (where labels are scored),
- the prompt whose vectors are the mean of theirs (where they have vectors, and one length).

The task's own options (--task.train-file, --task.evaluation, --task.max-input-length …) are those
of `softprompt_jax.train`; --config takes them from a recipe.

References:
    Lester et al. 2021, section 6 and table 3.
"""

import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from softprompt_jax.command_line import Parser, run_command
from softprompt_jax.config import TaskOptions
from softprompt_jax.data.tokenization import encode_choices, encode_inputs, without_prefix
from softprompt_jax.errors import UserError
from softprompt_jax.files import write_text
from softprompt_jax.inference import ensembles
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.inference.setup import (
    Opened,
    add_model_options,
    check_least,
    open_prompts,
    parse_prompts,
    task_options,
)
from softprompt_jax.progress import progress_bar
from softprompt_jax.prompts.soft_prompt import SoftPrompt
from softprompt_jax.tasks import Reference, Task, rename_labels
from softprompt_jax.training.setup import tasks_from_options

# Rows that are queued together, in batches of about one length.
BATCHES_A_CALL = 32

# What the prompt of averaged vectors is called in the predictor: no folder and no name.
_MEAN = "/mean/"

# What `Task.evaluate` tells beside the metrics.
OUTSIDE = "outside_labels"

Metrics = dict[str, float]


def main(arguments: Sequence[str]) -> int:
    """Reads the split, has every prompt answer it, and prints."""
    parser = Parser("softprompt_jax.evaluate", __doc__)
    add_model_options(parser)
    parser.add_argument("--task", help="name of the task; default: the one on the prompts' cards")
    parser.add_argument("--split", default="validation", help="of the task; default: validation")
    parser.add_argument("--examples", type=int, help="the first so many examples; default: all")
    parser.add_argument("--ensemble", action="store_true", help="join the prompts' answers too")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--output", help="file for the JSON object; default: none")
    options, rest = parser.parse_known_args(arguments)
    check_least(options, examples=1)
    opened = open_prompts(options, parse_prompts(options.prompts, named=False))
    if options.ensemble and len(opened.prompts) < 2:
        raise UserError("--ensemble joins the answers of prompts; give at least two.")
    output = None if options.output is None else _check_output(Path(options.output))
    asked = task_options(options.task, rest, opened.prompts)
    job = prepare(asked, options.split, options.examples, opened)
    report = evaluate(job, opened, options.ensemble)
    text = json.dumps(report)
    print(text if options.json else as_table(report))
    if output is not None:
        try:
            write_text(output, text + "\n")
        except OSError as error:
            raise UserError(
                f"{output} cannot be written ({error.strerror}); the report is above."
            ) from None
    return 0


def _check_output(path: Path) -> Path:
    if path.exists():
        raise UserError(f"{path} is there already; remove it or choose another --output.")
    if not os.access(path.parent, os.W_OK):
        raise UserError(f"The folder of {path} cannot be written; choose another --output.")
    return path


# -------------------------------------------------------------------------- before the weights


@dataclasses.dataclass(frozen=True)
class Job:
    """What the prompts are asked.

    Attributes:
        task: whose metrics are taken.
        split: name of the split.
        texts: the inputs as token ids.
        references: what the answers are judged by.
        cut: number of texts that were cut.
        said: the task's labels in the words that the prompts were trained to say; empty where text
            is generated.
        renamed: from these words to the task's, where they differ.
        max_new_tokens: of a generated answer.
        target_prefix: what the prompts were trained to say before it.
    """

    task: Task
    split: str
    texts: list[list[int]]
    references: list[Reference]
    cut: int
    said: tuple[str, ...]
    renamed: Mapping[str, str]
    max_new_tokens: int
    target_prefix: str


def prepare(options: TaskOptions, split: str, examples: int | None, opened: Opened) -> Job:
    """Reads a split of a task.

    Args:
        options: of the task.
        split: name of the split.
        examples: how many of its first examples; None: all.
        opened: prompts and model.

    Raises:
        UserError: there is no such task or split, it is not judged by its answers, the prompts
            name its labels differently, or no text fits beside a prompt.
    """
    tasks = tasks_from_options(options)
    if len(tasks) > 1:
        raise UserError("A mixture is evaluated task by task; name one with --task.")
    task = tasks[0]
    if task.evaluation == "likelihood":
        raise UserError(
            f"Task {task.name} is judged by the likelihood of its targets, which training reports; "
            "evaluate a task with answers, or leave out --task.evaluation if you gave it."
        )
    renames = [
        dict(rename_labels(str(prompt.card.get("task")), task.name) or {})
        for prompt in opened.prompts.values()
    ]
    if any(each != renames[0] for each in renames):
        raise UserError(
            f"The prompts were trained on tasks that name the labels of {task.name} differently; "
            "evaluate them apart."
        )
    says = {new: old for old, new in renames[0].items()}
    said = tuple(options.target_prefix + says.get(label, label) for label in task.labels)
    tokenizer = opened.files.load_tokenizer()
    config: Any = opened.files.config
    answer = options.max_target_length
    if task.evaluation == "score":
        answer = max(map(len, encode_choices(said, tokenizer, config)))
    limit = options.max_input_length
    if config.max_positions is not None:
        longest = max(prompt.length for prompt in opened.prompts.values())
        limit = min(limit, config.max_positions - longest - answer)
        if limit < 1:
            raise UserError(
                f"A prompt has {longest} positions and an answer up to {answer}, but "
                f"{opened.files.name} reads {config.max_positions} at most, texts included; "
                + ("" if task.evaluation == "score" else "lower --task.max_target_length or ")
                + "use shorter prompts."
            )
    rows = [
        row
        for example in itertools.islice(task.split(split), examples)
        for row in task.evaluation_rows(example, options.task_prefix)
    ]
    if not rows:
        raise UserError(f"The {split} split of task {task.name} has nothing to answer.")
    texts, cut = encode_inputs(
        [text for text, _ in rows],
        tokenizer,
        config,
        limit,
        task.truncate,
        keep_suffix=task.input_suffix,
    )
    return Job(
        task,
        split,
        texts,
        [reference for _, reference in rows],
        cut,
        said if task.evaluation == "score" else (),
        renames[0],
        options.max_target_length,
        options.target_prefix,
    )


# --------------------------------------------------------------------------------- the answers


def evaluate(job: Job, opened: Opened, ensemble: bool) -> dict[str, Any]:
    """Has every prompt answer every text.

    Args:
        job: the texts.
        opened: prompts and model.
        ensemble: join the answers too.

    Returns:
        JSON-able: `task`, `split`, `model`, `examples`, `cut_inputs`; `prompts`, metrics by prompt;
        `mean` and `standard_deviation` of each metric (null for one prompt); `best`, a prompt's
        name; and with `ensemble` an object of that name with the metrics of `majority_vote`,
        `mean_probability` and `mean_prompt`, null where it does not exist.
    """
    prompts = dict(opened.prompts)
    plain = [prompt for prompt in prompts.values() if isinstance(prompt, SoftPrompt)]
    if ensemble and len(plain) == len(prompts) and len({prompt.length for prompt in plain}) == 1:
        prompts[_MEAN] = ensembles.mean_prompt(plain)
    predictor = opened.load(prompts)
    names = list(opened.prompts)
    if job.said:
        scores = score_all(predictor, job, list(prompts))
        broken = [name for i, name in enumerate(prompts) if not np.isfinite(scores[i]).all()]
        if broken:
            told = ", ".join("the mean of all" if name == _MEAN else name for name in broken)
            raise UserError(
                f"The scores of {told} are not finite, so they choose nothing; train with a lower "
                "rate, or use --dtype float32."
            )
        picked = {name: scores[i].argmax(axis=1) for i, name in enumerate(prompts)}
        votes = ensembles.majority_vote(scores[: len(names)])
        likeliest = ensembles.mean_probability(scores[: len(names)])
        answers = {name: _labels(job, choices) for name, choices in picked.items()}
        joined: dict[str, list[str] | None] = {
            "majority_vote": _labels(job, votes),
            "mean_probability": _labels(job, likeliest),
        }
    else:
        told = generate_all(predictor, job, list(prompts))
        answers = dict(zip(prompts, told, strict=True))
        joined = {
            "majority_vote": ensembles.majority_text(told[: len(names)]),
            "mean_probability": None,
        }
    joined["mean_prompt"] = answers.pop(_MEAN, None)
    by_prompt = {name: _judge(job, each) for name, each in answers.items()}
    columns = list(by_prompt[names[0]])
    values = {column: [by_prompt[name][column] for name in names] for column in columns}
    report = {
        "task": job.task.name,
        "split": job.split,
        "model": opened.files.name,
        "examples": len(job.texts),
        "cut_inputs": job.cut,
        "prompts": by_prompt,
        "mean": {column: mean(each) for column, each in values.items()},
        "standard_deviation": (
            {column: stdev(each) for column, each in values.items()} if len(names) > 1 else None
        ),
        "best": max(names, key=lambda name: job.task.main_value(by_prompt[name])),
    }
    if ensemble:
        report["ensemble"] = {
            name: None if each is None else _judge(job, each) for name, each in joined.items()
        }
    return report


def score_all(predictor: Predictor, job: Job, prompts: Sequence[str]) -> np.ndarray:
    """The labels' log-likelihoods, float32 `[prompts, texts, labels]`."""
    parts = [
        ensembles.score_with_each(predictor, prompts, texts, job.said)
        for texts in _parts(job.texts, predictor, prompts)
    ]
    return np.concatenate(parts, axis=1)


def generate_all(predictor: Predictor, job: Job, prompts: Sequence[str]) -> list[list[str]]:
    """The greedy answers in the task's words, `[prompts][texts]`."""
    answers: list[list[str]] = [[] for _ in prompts]
    for texts in _parts(job.texts, predictor, prompts):
        told = ensembles.generate_with_each(predictor, prompts, texts, job.max_new_tokens)
        for own, more in zip(answers, told, strict=True):
            plain = (without_prefix(text, job.target_prefix) for text in more)
            own += [job.renamed.get(text, text) for text in plain]
    return answers


def _parts(texts: Sequence[list[int]], predictor: Predictor, prompts: Sequence[str]) -> Any:
    """The texts in parts that are answered together, and a bar that tells how far it is."""
    size = max(1, BATCHES_A_CALL * predictor.batch_size // len(prompts))
    with progress_bar(len(texts), "example") as bar:
        for start in range(0, len(texts), size):
            part = texts[start : start + size]
            yield part
            bar.update(len(part))


def _labels(job: Job, choices: np.ndarray) -> list[str]:
    return [job.task.labels[choice] for choice in choices]


def _judge(job: Job, predictions: Sequence[str]) -> Metrics:
    """The task's metrics, and their mean where there are several."""
    metrics = job.task.evaluate(predictions, job.references)
    if job.said:
        metrics.pop(OUTSIDE, None)  # the likeliest label is always a label
    if len(job.task.metrics) > 1:
        metrics["mean_of_metrics"] = job.task.main_value(metrics)
    return metrics


# ---------------------------------------------------------------------------------- the report


def as_table(report: Mapping[str, Any]) -> str:
    """The report of `evaluate` for people."""
    prompts, spread = report["prompts"], report["standard_deviation"]
    columns = list(report["mean"])
    lines = [["", *columns]]
    for name, metrics in prompts.items():
        lines.append([name, *_cells(metrics, columns)])
    if spread is not None:
        both = zip(_cells(report["mean"], columns), _cells(spread, columns), strict=True)
        lines.append(["mean ± standard deviation", *(f"{a} ± {b}" for a, b in both)])
        best = report["best"]
        lines.append([f"best: {best}", *_cells(prompts[best], columns)])
    words = {
        "majority_vote": "majority vote",
        "mean_probability": "averaged probabilities",
        "mean_prompt": "averaged vectors",
    }
    for name, metrics in report.get("ensemble", {}).items():
        cells = ["-"] * len(columns) if metrics is None else _cells(metrics, columns)
        lines.append([words[name], *cells])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    cut = f" ({report['cut_inputs']} inputs cut)" if report["cut_inputs"] else ""
    head = f"{report['task']}, {report['split']}: {report['examples']} rows{cut}, {report['model']}"
    return "\n".join([head, *(_aligned(line, widths) for line in lines)])


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    numbers = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "  ".join([cells[0].ljust(widths[0]), *numbers])


def _cells(metrics: Mapping[str, float], columns: Sequence[str]) -> list[str]:
    # Predictions outside the labels are counted; metrics are at most 1.
    return [f"{metrics[name]:.{1 if name == OUTSIDE else 4}f}" for name in columns]


if __name__ == "__main__":
    sys.exit(run_command(main))
