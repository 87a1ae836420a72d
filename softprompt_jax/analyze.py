r"""`python -m softprompt_jax.analyze`: what prompts look like, and prompts made of prompts.

    python -m softprompt_jax.analyze neighbours --prompts runs/quickstart/best
    python -m softprompt_jax.analyze labels --prompts a=runs/a/best,b=runs/b/best
    python -m softprompt_jax.analyze similarity --folder runs --png similarity.png
    python -m softprompt_jax.analyze waywardness --prompts runs/quickstart/best --examples 100
    python -m softprompt_jax.analyze trajectory --run runs/quickstart
    python -m softprompt_jax.analyze retrieve --target runs/new/best --folder runs --output start
    python -m softprompt_jax.analyze combine --prompts runs/1/best,runs/2/best --output mean
    python -m softprompt_jax.analyze recycle --prompt runs/a/best --to google/t5-v1_1-base \
      --output recycled

The first five print a table; --json and --png write the same as a file (`pip install
'softprompt-jax[plots]'`). The last three make a prompt folder, which starts a run with
`--prompt.init file --prompt.file FOLDER`.

References:
    Lester et al. 2021, section 7; Khashabi et al. 2021, "Prompt Waywardness"; Vu et al. 2021,
    "SPoT"; Lester et al. 2022, "Reducing Retraining by Recycling Parameter-Efficient Prompts".
"""

import dataclasses
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from softprompt_jax import figures
from softprompt_jax.analysis import (
    command_options,
    labels,
    neighbours,
    plots,
    reports,
    similarity,
    trajectory,
    transfer,
    waywardness,
)
from softprompt_jax.analysis.vocabulary import Vocabulary
from softprompt_jax.command_line import KindParser, Parser, run_command
from softprompt_jax.config import ModelOptions, RunConfig, TaskOptions
from softprompt_jax.data.splits import read_split
from softprompt_jax.errors import UserError
from softprompt_jax.exchange import read_prompt
from softprompt_jax.files import write_text
from softprompt_jax.inference.setup import (
    Opened,
    check_least,
    common_fact,
    labels_of,
    open_prompts,
    parse_prompts,
    read_prompts,
    task_options,
    vectors_only,
    warn_of_other_weights,
)
from softprompt_jax.models import resolve_model
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.prompts import SoftPrompt
from softprompt_jax.prompts.initializers import label_pieces, text_ids
from softprompt_jax.training.setup import resolve_dtype, tasks_from_options


def main(arguments: Sequence[str]) -> int:
    """Reads, computes and prints."""
    parser = Parser("softprompt_jax.analyze", __doc__)
    kinds = parser.add_subparsers(
        dest="what",
        required=True,
        parser_class=KindParser,
        metavar="{" + ",".join(_COMMANDS) + "}",
    )
    for name, (help_text, add_options, _) in _COMMANDS.items():
        add_options(kinds.add_parser(name, help=help_text))
    given, rest = parser.parse_known_args(arguments)
    if rest and given.what != "waywardness":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    given.rest = rest
    least = {"k": 1, "top": 1, "examples": 1, "most": 1, "seed": 0}
    check_least(given, **{name: value for name, value in least.items() if name in given})
    for name in ("json", "png", "output"):
        if getattr(given, name, None) is not None:
            _check_free(name, Path(getattr(given, name)))
    if getattr(given, "png", None) is not None:
        figures.check_installed()
    _COMMANDS[given.what][2](given)
    return 0


def _check_free(option: str, path: Path) -> None:
    if path.exists():
        raise UserError(f"{path} is there already; remove it or choose another --{option}.")
    parent = path.absolute().parent
    while not parent.exists() and option == "output":  # a prompt's folder makes those above it
        parent = parent.parent
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise UserError(f"The folder of {path} cannot be written; choose another --{option}.")


# ---------------------------------------------------------------------------------- analyses


def _neighbours(given: Any) -> None:
    prompts, files = _open(given)
    vocabulary = _vocabulary(prompts, files, given)
    _tell(neighbours.describe(prompts, vocabulary, given.k, given.seed), given)


def _labels(given: Any) -> None:
    prompts, files = _open(given)
    if given.labels is None:
        wanted = {name: labels_of(name, prompt) for name, prompt in prompts.items()}
    else:
        asked = tuple(label.strip() for label in given.labels.split(","))
        wanted = dict.fromkeys(prompts, asked)
    for name, own in wanted.items():
        if not own:
            raise UserError(f"The card of prompt {name} has no labels; give them with --labels.")
    tokenizer = files.load_tokenizer()
    for own in wanted.values():
        label_pieces(own, tokenizer, files.config)
    vocabulary = _vocabulary(prompts, files, given)
    _tell(labels.describe(prompts, wanted, vocabulary, given.k), given)


def _similarity(given: Any) -> None:
    if given.folder is not None:
        prompts = _find(Path(given.folder))
    else:
        folders = parse_prompts(given.prompts, named=False)
        prompts = {name: read_prompt(source) for name, source in folders.items()}
    _tell(similarity.describe(prompts), given)


def _waywardness(given: Any) -> None:
    opened = open_prompts(given, parse_prompts(given.prompts, named=False))
    prompts = vectors_only(opened.prompts)
    asked = task_options(given.task, given.rest, prompts)
    (task, *others) = tasks_from_options(asked)
    if others:
        raise UserError("A mixture is judged task by task; name one with --task.")
    asked = _fitting(asked, opened)
    tokenizer = opened.files.load_tokenizer()
    if given.text is not None:
        text_ids(given.text, 1, tokenizer)
    split = read_split(asked, task, given.split, tokenizer, opened.files.config)
    split = split.first(given.examples)
    model = opened.files.load(opened.dtype, opened.layout.sharding)
    warn_of_other_weights(opened.prompts, model)
    judge = waywardness.Judge(
        model,
        task,
        split,
        batch_size=opened.batch_size,
        options=asked,
        layout=opened.layout,
    )
    vocabulary = Vocabulary.of(model, not given.no_special)
    report = waywardness.describe(prompts, vocabulary, judge, task.name, split, given.text)
    _tell(report, given)


def _fitting(asked: TaskOptions, opened: Opened) -> TaskOptions:
    """The task's options with inputs that fit beside a prompt and an answer."""
    limit: int | None = opened.files.config.max_positions
    if limit is None:
        return asked
    longest = max(prompt.length for prompt in opened.prompts.values())
    room = limit - longest - asked.max_target_length
    if room < 1:
        raise UserError(
            f"A prompt has {longest} positions and an answer up to {asked.max_target_length}, but "
            f"{opened.files.name} reads {limit} at most, texts included; lower "
            "--task.max_target_length or use shorter prompts."
        )
    return dataclasses.replace(asked, max_input_length=min(asked.max_input_length, room))


def _trajectory(given: Any) -> None:
    run = Path(given.run)
    config = trajectory.read_config(run)
    kept = trajectory.kept_points(run)
    files = resolve_model(given.model if given.model is not None else config.model.name)
    for point in kept:
        prompt = SoftPrompt(jnp.asarray(point.vectors), {"model": config.model.name})
        prompt.check_fits(files.config, files.name)
    trajectory.check_start(config, files.config)
    model = files.load(_dtype(given))
    points = [trajectory.start_point(config, model), *(p for p in kept if p.step > 0)]
    vocabulary = Vocabulary.of(model, not given.no_special)
    _tell(trajectory.describe(points, vocabulary, given.run), given)


# ---------------------------------------------------------------------------------- transfer


def _retrieve(given: Any) -> None:
    target, folder = read_prompt(given.target), Path(given.folder)
    own = Path(given.target).resolve()
    sources = {
        name: prompt
        for name, prompt in _find(folder, target).items()
        if (folder / name).resolve() != own
    }
    if given.top > len(sources):
        raise UserError(
            f"--top is {given.top}, but {folder} has {len(sources)} prompts beside the target."
        )
    matches = transfer.retrieve(target, sources, given.measure)
    rows = [["source", "task", "similarity"]]
    for match in matches:
        task = sources[match.name].card.get("task")
        rows.append([match.name, reports.or_dash(task), f"{match.similarity:.4f}"])
    prompt = sources[matches[0].name]
    if given.top > 1:
        prompt = transfer.combine_matches(matches[: given.top], sources, given.measure)
    print("\n".join(reports.table(rows, left=2)))
    if given.output is not None:
        _save(prompt, given.output)


def _combine(given: Any) -> None:
    folders = parse_prompts(given.prompts, named=False)
    prompts = {name: read_prompt(source) for name, source in folders.items()}
    weights = None
    if given.weights is not None:
        try:
            weights = [float(weight) for weight in given.weights.split(",")]
        except ValueError:
            raise UserError(
                f"--weights is {given.weights!r}; give numbers, set apart by commas."
            ) from None
    prompt = transfer.combine(prompts, weights)
    rows = [["prompt", "task", "weight"]]
    for part in prompt.card["combined_from"]:
        task = part["task"]
        rows.append([part["prompt"], reports.or_dash(task), f"{part['weight']:.4f}"])
    print("\n".join(reports.table(rows, left=2)))
    _save(prompt, given.output)


def _recycle(given: Any) -> None:
    transfer.check_ridge(given.ridge)
    prompt = read_prompt(given.prompt)
    name = given.model if given.model is not None else common_fact({"it": prompt}, "model")
    files, target_files = resolve_model(name), resolve_model(given.to)
    prompt.check_fits(files.config, name)
    model = files.load(_dtype(given))
    warn_of_other_weights({given.prompt: prompt}, model)
    source = Vocabulary.of(model, special=False)
    del model  # its embedding stays; two models at once need not
    target = Vocabulary.of(target_files.load(_dtype(given)), special=False)
    recycled = transfer.recycle(prompt, source, target, ridge=given.ridge, most=given.most)
    told = recycled.card["recycled_from"]
    cosine = told["held_out_cosine"]
    seen = "too few to hold any out" if cosine is None else f"held out: cosine {cosine:.3f}"
    print(
        f"{source.name} to {target.name}: {told['shared_tokens']:,} shared tokens of "
        f"{len(source.ids):,} and {len(target.ids):,} ({seen}), ridge term {told['ridge']:g}"
    )
    _save(recycled, given.output)


# ------------------------------------------------------------------------------ what they share


def _open(given: Any) -> tuple[dict[str, SoftPrompt], ModelFiles]:
    """The prompts and their model, whose weights are not read yet."""
    return read_prompts(parse_prompts(given.prompts, named=False), given.model)


def _find(folder: Path, target: SoftPrompt | None = None) -> dict[str, SoftPrompt]:
    """The prompts in a folder; tells which ones are left out."""
    found, left_out = transfer.find_prompts(folder, target)
    for name, why in left_out.items():
        print(f"Left out {folder / name}: {why}.", file=sys.stderr)
    return found


def _vocabulary(prompts: Mapping[str, SoftPrompt], files: ModelFiles, given: Any) -> Vocabulary:
    model = files.load(_dtype(given))
    warn_of_other_weights(prompts, model)
    return Vocabulary.of(model, not given.no_special)


def _dtype(given: Any) -> str:
    platform = jax.local_devices()[0].platform
    return resolve_dtype(RunConfig(model=ModelOptions(dtype=given.dtype)), platform)


def _tell(report: Mapping[str, Any], given: Any) -> None:
    if given.json is not None:
        write_text(Path(given.json), json.dumps(report) + "\n")
    if given.png is not None:
        plots.save_png(report, Path(given.png))
    print(reports.as_text(report))


def _save(prompt: SoftPrompt, folder: str) -> None:
    prompt.save(folder)
    print(
        f"Saved {folder}: start a run from it with --prompt.init file --prompt.file {folder} "
        f"--prompt.length {prompt.length}"
    )


_COMMANDS = {
    "neighbours": ("tokens nearest to each position", command_options.neighbours, _neighbours),
    "labels": ("whether class labels stay near", command_options.labels, _labels),
    "similarity": ("cosines between prompts", command_options.similarity, _similarity),
    "waywardness": ("prompts as their nearest tokens", command_options.waywardness, _waywardness),
    "trajectory": ("the way through a training run", command_options.trajectory, _trajectory),
    "retrieve": ("the best source prompt for a task", command_options.retrieve, _retrieve),
    "combine": ("the mean or weighted sum of prompts", command_options.combine, _combine),
    "recycle": ("a prompt for another model", command_options.recycle, _recycle),
}

if __name__ == "__main__":
    sys.exit(run_command(main))
