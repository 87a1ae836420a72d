"""The folder that a run keeps a trained prompt in, of whatever kind, and the way back."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from softprompt_jax.errors import UserError
from softprompt_jax.files import check_replaceable, recover_folder, replace_folder
from softprompt_jax.prompts.prompted_model import PromptedModel
from softprompt_jax.prompts.reparameterizations import Reparameterization
from softprompt_jax.prompts.soft_prompt import SoftPrompt, check_prompt_replaceable
from softprompt_jax.prompts.unfolded_prompt import (
    AnyTrainedPrompt,
    UnfoldedPrompt,
    load_prompt,
)

CONTENTS = "prompts.json"
"""Of a folder with a prompt for each of several tasks: from a task's name to its prompt's folder
there."""


def save_prompts(
    folder: Path,
    prompted: PromptedModel,
    card: Mapping[str, Any],
    tasks: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Replaces a folder by the prompt, whole: no reader and no crash sees half of it.

    One prompt for all makes a folder of `SoftPrompt.save`; prompts of several tasks make one for
    each within the folder.

    Args:
        folder: where to; it may hold an earlier prompt of the same run.
        prompted: with the folded prompt, on the host.
        card: of the prompt.
        tasks: whose prompts they are, in order, where each task has its own, with its labels.

    Raises:
        UserError: there is something else in the folder, which would be lost.
    """
    if isinstance(prompted.prompt, Reparameterization):
        UnfoldedPrompt(prompted.prompt, card).save(folder)  # pyright: ignore[reportArgumentType]
        return
    vectors = prompted.vectors
    assert vectors is not None
    if vectors.ndim == 2:
        SoftPrompt(vectors, card).save(folder)
        return
    # The names of data sets' configs have a slash in them.
    tasks = tasks or {}
    names = {task: task.replace("/", "--") for task in tasks}
    check_replaceable(folder, "these tasks' prompts", [CONTENTS], [CONTENTS, *names.values()])
    for name in names.values():
        check_prompt_replaceable(folder / name)
    with replace_folder(folder) as fresh:
        for (task, name), own in zip(names.items(), vectors, strict=True):
            own_card = {**card, "task": task, "labels": list(tasks[task])}
            SoftPrompt(own, own_card).save(fresh / name)
        (fresh / CONTENTS).write_text(json.dumps(names, indent=2) + "\n", encoding="utf-8")


def load_prompts(folder: Path) -> Any:
    """What `save_prompts` wrote, as `PromptedModel` takes it.

    Raises:
        UserError: the folder holds no prompt, or a damaged one.
    """
    prompts = prompts_by_task(folder)
    if prompts is None:
        prompt = load_prompt(folder)
        return prompt.vectors if isinstance(prompt, SoftPrompt) else prompt.module
    return jnp.stack([prompt.vectors for prompt in prompts.values()])


def single_prompt(folder: Path) -> AnyTrainedPrompt | None:
    """The prompt of a folder with one for all; None where each of several tasks has its own.

    Raises:
        UserError: as `load_prompts`.
    """
    return load_prompt(folder) if prompts_by_task(folder) is None else None


def prompts_by_task(folder: Path) -> dict[str, SoftPrompt] | None:
    """Each task's prompt, by the task's name, in order; None of a folder with one for all.

    Raises:
        UserError: a prompt is missing or damaged.
    """
    recover_folder(folder)
    path = folder / CONTENTS
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))
        prompts = {str(task): SoftPrompt.load(folder / str(name)) for task, name in names.items()}
    except UserError:  # which is a ValueError, and says what is wrong with a prompt
        raise
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"The prompts in {folder} are damaged ({error}); save them anew.") from None
    if len({prompt.vectors.shape for prompt in prompts.values()}) != 1:
        raise UserError(f"The prompts in {folder} have not one shape; save them anew.")
    return prompts
