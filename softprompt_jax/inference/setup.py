"""From a command's options to a model and its prompts.

What can be refused before the model's weights are read is refused here.
"""

import argparse
import dataclasses
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from softprompt_jax.command_line import load_command_config
from softprompt_jax.config import ModelOptions, ParallelOptions, RunConfig, TaskOptions
from softprompt_jax.errors import UserError
from softprompt_jax.exchange import read_any_prompt, read_prompt
from softprompt_jax.files import expand_user
from softprompt_jax.inference.predictor import Predictor
from softprompt_jax.inference.prompt_bank import check_together, told_of_other_weights
from softprompt_jax.inference.serving_layout import serving_layout
from softprompt_jax.models import LanguageModel, resolve_model
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.prompts.soft_prompt import AS_TRAINED, SoftPrompt
from softprompt_jax.prompts.unfolded_prompt import AnyTrainedPrompt
from softprompt_jax.training.parallel import MESH_AXES, Layout
from softprompt_jax.training.setup import resolve_dtype


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The options that `open_prompts` reads."""
    parser.add_argument(
        "--prompts", required=True, help="prompt folders, set apart by commas: NAME=FOLDER,…"
    )
    parser.add_argument(
        "--model", help="hub id, folder, .gguf file or built-in name; default: the prompts' own"
    )
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="of the weights; auto: bfloat16 on TPU and GPU, float32 on CPU; default: auto",
    )
    parser.add_argument("--batch-size", type=int, default=16, help="rows a batch; default: 16")
    parser.add_argument("--devices", type=int, help="local devices to use; default: all of them")
    parser.add_argument(
        "--layout",
        choices=["auto", "pmap", "mesh"],
        default="auto",
        help="pmap: whole weights on each device; mesh: weights shared out too; auto: mesh where "
        "they are too large for a device; default: auto",
    )
    for axis, shares, default in (
        ("data", "rows", "1, or what the others leave where --fsdp is given"),
        ("fsdp", "rows and weights", "what the others leave"),
        ("tensor", "heads and hidden units", "1"),
    ):
        parser.add_argument(
            f"--{axis}",
            type=int,
            help=f"devices along the mesh's axis that shares out {shares}; default: {default}",
        )


@dataclasses.dataclass(frozen=True)
class Opened:
    """Prompts and the model that they are for, whose weights are not read yet.

    Attributes:
        prompts: by name, all of the model's shape.
        files: of the model.
        dtype: of its weights, "float32" or "bfloat16".
        batch_size: rows a batch.
        layout: where weights and rows go.
    """

    prompts: dict[str, AnyTrainedPrompt]
    files: ModelFiles
    dtype: str
    batch_size: int
    layout: Layout

    def load(self, prompts: Mapping[str, AnyTrainedPrompt] | None = None) -> Predictor:
        """Reads the weights; a prompt that was trained on other ones is told on standard error.

        Args:
            prompts: what the predictor is to have; None: the prompts that were opened.
        """
        model = self.files.load(self.dtype, self.layout.sharding)
        warn_of_other_weights(self.prompts, model)
        return Predictor(
            model,
            self.prompts if prompts is None else prompts,
            batch_size=self.batch_size,
            layout=self.layout,
        )


def open_prompts(options: argparse.Namespace, folders: dict[str, Path]) -> Opened:
    """Reads the prompts and finds their model.

    Args:
        options: those of `add_model_options`.
        folders: of the prompts by name; also what else `read_any_prompt` takes.

    Raises:
        UserError: a folder holds no prompt, prompts cannot be mixed, they name no common model and
            none is given, the model is not found or has another shape, there are fewer devices, or
            they do not make up the mesh.
    """
    check_least(options, batch_size=1, data=1, fsdp=1, tensor=1)
    here = jax.local_device_count()
    if options.devices is not None and not 1 <= options.devices <= here:
        raise UserError(f"--devices is {options.devices}, but this machine has {here}.")
    prompts = {name: read_any_prompt(source) for name, source in folders.items()}
    check_together(prompts)
    files = _common_model(prompts, options.model)
    platform = jax.local_devices()[0].platform
    dtype = resolve_dtype(RunConfig(model=ModelOptions(dtype=options.dtype)), platform)
    parallel = ParallelOptions(
        **{name: getattr(options, name) for name in ("devices", "layout", *MESH_AXES)}
    )
    try:
        layout = serving_layout(parallel, files.config, dtype)
    except UserError as error:  # the options are those of a run, which have a longer name there
        raise UserError(str(error).replace("--parallel.", "--")) from None
    return Opened(prompts, files, dtype, options.batch_size, layout)


def read_prompts(
    sources: Mapping[str, str | Path], model: str | None
) -> tuple[dict[str, SoftPrompt], ModelFiles]:
    """The prompts, and the model that they are for, whose weights are not read yet.

    Args:
        sources: by name, as `read_prompt` takes them.
        model: its name; None: the one that the prompts name.

    Raises:
        UserError: there is no such prompt, the prompts name no common model and none is given, or
            the model is not found or has another width.
    """
    prompts = {name: read_prompt(source) for name, source in sources.items()}
    return prompts, _common_model(prompts, model)


def _common_model(prompts: Mapping[str, AnyTrainedPrompt], model: str | None) -> ModelFiles:
    model = model if model is not None else common_fact(prompts, "model")
    files = resolve_model(model)
    for name, prompt in prompts.items():
        try:
            prompt.check_fits(files.config, model)
        except UserError as error:
            raise UserError(f"Prompt {name} does not fit: {error}") from None
    return files


def vectors_only(prompts: Mapping[str, AnyTrainedPrompt]) -> dict[str, SoftPrompt]:
    """The prompts, all of which are plain.

    Raises:
        UserError: one is more than vectors.
    """
    plain: dict[str, SoftPrompt] = {}
    for name, prompt in prompts.items():
        if not isinstance(prompt, SoftPrompt):
            raise UserError(
                f"Prompt {name} is a {prompt.kind!r} prompt, which is more than vectors; give "
                "plain prompts."
            )
        plain[name] = prompt
    return plain


def warn_of_other_weights(prompts: Mapping[str, AnyTrainedPrompt], model: LanguageModel) -> None:
    """Tells on standard error which prompts were trained on other weights."""
    for told in told_of_other_weights(prompts, model):
        print(f"warning: {told}", file=sys.stderr)


def task_options(
    name: str | None, rest: Sequence[str], prompts: Mapping[str, AnyTrainedPrompt]
) -> TaskOptions:
    """A task's options, from a recipe and the command line.

    Args:
        name: of the task; None: the recipe's, or that of the prompts.
        rest: the command's arguments that are not its own.
        prompts: by name.

    Raises:
        UserError: an option is neither --config nor the task's, or the prompts name no common task
            and none is given.
    """
    given = [argument[2:].split("=")[0] for argument in rest if argument.startswith("--")]
    for option in given:
        if option != "config" and not option.startswith("task."):
            raise UserError(
                f"There is no option --{option}; beside those of --help there are --config and "
                "the task's, such as --task.evaluation."
            )
    asked = name
    if name is None and "config" not in given and "task.name" not in given:
        name = common_fact(prompts, "task")
    named = [] if name is None else ["--task.name", name]
    options = load_command_config([*named, *rest]).task
    if asked is not None and "task.mixture" not in given:
        options = dataclasses.replace(options, mixture=())  # the recipe's, of which one was named
    spelled = {option.replace("-", "_").replace("no_", "") for option in given}
    if "config" in given:
        _check_as_trained(prompts, options, spelled)
        return options
    # As the prompts were trained, unless it is said otherwise.
    cards = {
        option: _same_on_all(prompts, option, getattr(options, option))
        for option in AS_TRAINED
        if f"task.{option}" not in spelled
    }
    return dataclasses.replace(options, **cards)


def _check_as_trained(
    prompts: Mapping[str, AnyTrainedPrompt], options: TaskOptions, spelled: Collection[str]
) -> None:
    """Refuses a recipe that asks otherwise than the prompts were trained, and does not say so."""
    for option in AS_TRAINED:
        asked = getattr(options, option)
        for name, prompt in prompts.items():
            trained = prompt.card.get(option, asked)
            if f"task.{option}" not in spelled and trained != asked:
                raise UserError(
                    f"Prompt {name} was trained with --task.{option} {trained!r}, but the recipe "
                    f"has {asked!r}; give --task.{option}, whichever is meant."
                )


def _same_on_all(prompts: Mapping[str, AnyTrainedPrompt], option: str, default: Any) -> Any:
    """The value of a task's option on the prompts' cards."""
    told = {name: prompt.card.get(option, default) for name, prompt in prompts.items()}
    first = next(iter(told.values()))
    if any(value != first for value in told.values()):
        each = ", ".join(f"{name} {value!r}" for name, value in told.items())
        raise UserError(
            f"The prompts were trained with different --task.{option} ({each}); evaluate them "
            "apart, or give it."
        )
    if type(first) is not type(default):
        raise UserError(f"The prompts' cards have the {option} {first!r}; mend prompt.json.")
    return first


def parse_prompts(text: str, named: bool) -> dict[str, Path]:
    """The folders of `--prompts` by name.

    Args:
        text: "boolq=runs/boolq/best,rte=runs/rte/best".
        named: a folder must have a name; else one without goes by its path, which may have a "=".

    Raises:
        UserError: a name or a folder is missing, or a name comes twice.
    """
    folders: dict[str, Path] = {}
    for part in text.split(","):
        name, equals, folder = (piece.strip() for piece in part.partition("="))
        if not named and (not equals or expand_user(part.strip()).exists()):
            name = folder = part.strip()
        if not name or not folder:
            wanted = "NAME=FOLDER,NAME=FOLDER" if named else "FOLDER,FOLDER"
            raise UserError(f"--prompts has the part {part!r}; write it as {wanted}.")
        if name in folders:
            raise UserError(f"--prompts has {name!r} twice; give each prompt once.")
        folders[name] = expand_user(folder)
    return folders


def labels_of(name: str, prompt: AnyTrainedPrompt) -> tuple[str, ...]:
    """The labels on a prompt's card; empty for one that generates text.

    Raises:
        UserError: they are no list of texts.
    """
    labels: Any = prompt.card.get("labels") or []
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise UserError(
            f"The card of prompt {name} has labels that are no list of texts; mend prompt.json."
        )
    return tuple(labels)


def target_prefix_of(name: str, prompt: AnyTrainedPrompt) -> str:
    """What a prompt was trained to say before an answer, by its card; its labels begin with it.

    Raises:
        UserError: it is no text.
    """
    prefix = prompt.card.get("target_prefix", "")
    if not isinstance(prefix, str):
        raise UserError(f"The card of prompt {name} has a target_prefix that is no text; mend it.")
    return prefix


def check_least(options: argparse.Namespace, **least: int) -> None:
    """Refuses whole numbers that are too small, by the name of their option."""
    for name, smallest in least.items():
        value = getattr(options, name)
        if value is not None and value < smallest:
            told = name.replace("_", "-")
            raise UserError(f"--{told} is {value}; it must be at least {smallest}.")


def common_fact(prompts: Mapping[str, AnyTrainedPrompt], name: str) -> str:
    """A text that the cards of all prompts agree on, such as their model or task.

    Raises:
        UserError: they do not.
    """
    told = [prompt.card.get(name) for prompt in prompts.values()]
    facts = sorted({fact for fact in told if isinstance(fact, str) and fact})
    if facts and all(fact == facts[0] for fact in told):
        return facts[0]
    known = " and ".join(facts) or "none"
    raise UserError(
        f"The prompts' cards do not name one {name} (they name {known}); give it with --{name}."
    )
