r"""`python -m softprompt_jax.export`: a prompt in another form, or from another form.

    python -m softprompt_jax.export runs/boolq/best --peft adapter
    python -m softprompt_jax.export runs/boolq/best --push-to-hub owner/boolq --license apache-2.0
    python -m softprompt_jax.export owner/boolq --prompt prompts/boolq
    python -m softprompt_jax.export runs/boolq/best --embeddings request.safetensors --text "…"

SOURCE is a prompt folder, the folder of a PEFT adapter (prompt, prefix or p-tuning), a .npy file
as the original code keeps prompts, or a repository of the Hugging Face hub. It is written to each
of:

--prompt FOLDER      our own form, for `predict`, `evaluate` and `--prompt.init file`
--peft FOLDER        a PEFT adapter, with the prompt's card and a README.md
--npy FILE           the vectors alone, float32
--embeddings FILE    prompt and text embedded, .safetensors or .npy: what vLLM takes
--push-to-hub REPO   a repository that PEFT and this package both load

A .npy file does not say which model it is for: --model does. --neighbours K lists in README.md the
K tokens nearest to each position.
"""

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from softprompt_jax.command_line import Parser, run_command
from softprompt_jax.errors import UserError
from softprompt_jax.exchange import (
    export_embeddings,
    export_npy,
    export_peft,
    push_to_hub,
    read_any_prompt,
)
from softprompt_jax.exchange.embeddings import check_suffix
from softprompt_jax.exchange.hub import check_repo_id, check_token
from softprompt_jax.exchange.peft import check_adapter_replaceable
from softprompt_jax.files import expand_user
from softprompt_jax.models import LanguageModel, resolve_model
from softprompt_jax.models.loading import ModelFiles
from softprompt_jax.prompts.soft_prompt import SoftPrompt, check_prompt_replaceable
from softprompt_jax.prompts.unfolded_prompt import UnfoldedPrompt

TARGETS = ("prompt", "peft", "npy", "embeddings", "push_to_hub")


def main(arguments: Sequence[str]) -> int:
    """Reads the prompt and writes it, and tells where it is."""
    options = _parse(arguments)
    _check(options)
    files = None if options.model is None else resolve_model(options.model)
    prompt = read_any_prompt(options.source, model=files, revision=options.revision)
    if not isinstance(prompt, SoftPrompt):
        return _export_unfolded(prompt, options, files)
    load = functools.cache(functools.partial(_load, prompt, files))
    words = _nearest(prompt, load(), options.neighbours) if options.neighbours else ()
    described = {
        "model": files,
        "base_model": options.base_model,
        "license": options.license or "unknown",
        "neighbours": words,
    }
    # First what may still be refused.
    _write(
        "embeddings",
        options.embeddings,
        lambda: export_embeddings(prompt, options.embeddings, model=load(), text=options.text),
    )
    _write("PEFT adapter", options.peft, lambda: export_peft(prompt, options.peft, **described))
    _write("prompt", options.prompt, lambda: prompt.save(options.prompt))
    _write("vectors", options.npy, lambda: export_npy(prompt, options.npy))
    if (repository := options.push_to_hub) is not None:
        address = push_to_hub(prompt, repository, private=options.private, **described)
        print(f"repository: {address}")
    return 0


def _export_unfolded(
    prompt: UnfoldedPrompt, options: argparse.Namespace, files: ModelFiles | None
) -> int:
    """As `main` for a prompt that is more than vectors."""
    asked = [name for name in (*TARGETS, "neighbours") if getattr(options, name)]
    for name in asked:
        if name not in ("prompt", "peft"):
            raise UserError(
                f"--{name.replace('_', '-')} takes vectors, but this {prompt.kind!r} prompt is "
                "more than vectors; leave it out."
            )
    described = {
        "model": files,
        "base_model": options.base_model,
        "license": options.license or "unknown",
    }
    _write("PEFT adapter", options.peft, lambda: export_peft(prompt, options.peft, **described))
    _write("prompt", options.prompt, lambda: prompt.save(options.prompt))
    return 0


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = Parser("softprompt_jax.export", __doc__)
    parser.add_argument("source", metavar="SOURCE", help="folder, .npy file or owner/name")
    parser.add_argument("--prompt", metavar="FOLDER", help="write a prompt folder; default: none")
    parser.add_argument("--peft", metavar="FOLDER", help="write a PEFT adapter; default: none")
    parser.add_argument("--npy", metavar="FILE", help="write the vectors alone; default: none")
    parser.add_argument(
        "--embeddings", metavar="FILE", help="write prompt and --text embedded; default: none"
    )
    parser.add_argument(
        "--text", help="the input of --embeddings, as the task words it; default: none"
    )
    parser.add_argument(
        "--push-to-hub",
        "--push_to_hub",
        metavar="REPO",
        help="repository to put it into, as owner/name; default: none",
    )
    parser.add_argument(
        "--model", help="hub id, folder, .gguf file or built-in name; default: the prompt's own"
    )
    parser.add_argument(
        "--base-model",
        "--base_model",
        metavar="NAME",
        help="what PEFT is to load as base model; default: the prompt's own",
    )
    parser.add_argument(
        "--revision", help="branch, tag or commit of a SOURCE on the hub; default: main"
    )
    parser.add_argument("--license", help="of the prompt, by the hub's name; default: unknown")
    parser.add_argument(
        "--neighbours",
        type=int,
        default=0,
        metavar="K",
        help="tokens nearest to each position that README.md lists; default: 0, no list",
    )
    parser.add_argument(
        "--private",
        action="store_true",
        help="make the repository private, and refuse one that is public; default: as it is",
    )
    return parser.parse_args(arguments)


def _check(options: argparse.Namespace) -> None:
    """Refuses what cannot be done before anything is read or written."""
    if all(getattr(options, name) is None for name in TARGETS):
        told = ", ".join(f"--{name.replace('_', '-')}" for name in TARGETS)
        raise UserError(f"Nothing is to be written; give at least one of {told}.")
    if options.neighbours < 0:
        raise UserError(f"--neighbours is {options.neighbours}; it must be at least 0.")
    if (options.embeddings is None) != (options.text is None):
        raise UserError("--embeddings and --text go together; give both or neither.")
    if options.embeddings is not None:
        check_suffix(Path(options.embeddings))
    describes = options.peft is not None or options.push_to_hub is not None
    for name in ("neighbours", "license", "base_model"):
        if getattr(options, name) and not describes:
            raise UserError(
                f"--{name.replace('_', '-')} is for what --peft and --push-to-hub write; give one "
                "of them, or leave it out."
            )
    if options.private and options.push_to_hub is None:
        raise UserError("--private is for --push-to-hub; give both or neither.")
    if options.revision is not None and expand_user(options.source).exists():
        raise UserError(
            f"--revision is of a repository on the hub, but {options.source} is a folder or file "
            "here; leave it out."
        )
    if options.npy is not None and Path(options.npy).suffix != ".npy":
        raise UserError(f"--npy is {options.npy}; give the file a name that ends in .npy.")
    if options.npy is not None and options.npy == options.embeddings:
        raise UserError("--npy and --embeddings name one file; give each its own.")
    if options.prompt is not None:
        check_prompt_replaceable(Path(options.prompt))
    if options.peft is not None:
        check_adapter_replaceable(Path(options.peft))
    for name in ("npy", "embeddings"):
        file = getattr(options, name)
        if file is not None and Path(file).exists():
            raise UserError(f"{file} is there already; remove it or choose another --{name}.")
    if options.push_to_hub is not None:
        check_repo_id(options.push_to_hub)
        check_token(None)


def _write(what: str, target: str | None, write: Callable[[], None]) -> None:
    if target is None:
        return
    try:
        write()
    except OSError as error:
        raise UserError(
            f"{target} cannot be written ({error.strerror or error}); choose another place."
        ) from None
    print(f"{what}: {target}")


def _load(prompt: SoftPrompt, files: ModelFiles | None) -> LanguageModel:
    """The model that is given, or that is on the prompt's card."""
    if files is None:
        name = prompt.card.get("model")
        if not isinstance(name, str) or not name:
            raise UserError("The prompt's card names no model; give it with --model.")
        files = resolve_model(name)
        prompt.check_fits(files.config, name)
    return files.load()


def _nearest(prompt: SoftPrompt, model: LanguageModel, count: int) -> list[list[str]]:
    """The nearest tokens of each position as text."""
    from softprompt_jax.analysis.neighbours import nearest
    from softprompt_jax.analysis.vocabulary import Vocabulary

    vocabulary = Vocabulary.of(model)
    found = nearest(np.asarray(prompt.vectors), vocabulary, count)
    return [vocabulary.texts(ids) for ids in found.ids]


if __name__ == "__main__":
    sys.exit(run_command(main))
