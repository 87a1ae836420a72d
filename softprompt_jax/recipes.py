"""Reading a config: a recipe of `configs/*.py`, and the command line's overrides of it."""

import contextlib
import difflib
import importlib.util
import inspect
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import tyro

from softprompt_jax.config import BaseConfig, RunConfig, flatten
from softprompt_jax.config_checks import check, check_types
from softprompt_jax.errors import UserError

Kind = TypeVar("Kind", bound=BaseConfig)


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a recipe and applies command-line overrides to it.

    Args:
        path: a Python file that defines `config`, a `RunConfig`, or a function that makes one of
            texts, which then follow the file: `configs/lester2021.py:super_glue/boolq:base`. None:
            the defaults. The file is executed, so it must be one you trust.
        overrides: as on the command line, `["--train.steps", "50"]`.

    Raises:
        UserError: the file is missing or has no config, or does not take what follows it, or an
            override is unknown or malformed.
    """
    return load_config_of(RunConfig, path, overrides)


def load_config_of(
    kind: type[Kind],
    path: str | Path | None,
    overrides: Sequence[str],
    program: str = "softprompt_jax",
    description: str | None = None,
) -> Kind:
    """As `load_config`, for any kind of config; --help has the program's name and description."""
    config = kind() if path is None else _execute(kind, str(path))
    check_types(config)
    if overrides:
        config = _override(config, list(overrides), program, description)
    check(config)
    return config


def _execute(kind: type[Kind], path: str) -> Kind:
    file, colon, rest = path.partition(".py:")
    arguments = rest.split(":") if colon else []
    path = f"{file}.py" if colon else path
    if not Path(path).is_file():
        raise UserError(f"There is no config file {path}; the recipes are in configs/.")
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    if spec is None or spec.loader is None:
        raise UserError(f"The config {path} is not a Python file; recipes end in .py.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = _made(getattr(module, "config", None), path, arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"The config {path} cannot be read ({type(error).__name__}: {error}); mend the file."
        ) from None
    if not isinstance(config, kind):
        raise UserError(
            f"The config {path} does not define `config = {kind.__name__}(...)`; add it."
        )
    return config


def _made(config: object, path: str, arguments: list[str]) -> object:
    """The config, of a function the one that it makes of what follows the file's name."""
    if not callable(config):
        if arguments:
            raise UserError(
                f"The config {path} is one recipe; leave out :{':'.join(arguments)} after it."
            )
        return config
    signature = inspect.signature(config)
    try:
        signature.bind(*arguments)
    except TypeError as error:
        takes = "".join(f":{name.upper()}" for name in signature.parameters)
        raise UserError(
            f"The config {path} is given as {path}{takes} ({error}); mend what follows the file."
        ) from None
    return config(*arguments)


def _override(config: Kind, overrides: list[str], program: str, description: str | None) -> Kind:
    names = flatten(config)
    for argument in overrides:
        if not argument.startswith("--"):
            continue
        name = argument[2:].split("=")[0].replace("-", "_")
        switch = re.sub(r"(^|\.)no_(\w+)$", r"\1\2", name)
        known = name in names or isinstance(names.get(switch), bool)
        if not known and name not in ("help", "h"):
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean --{close[0]}?" if close else "see --help for the options."
            raise UserError(f"There is no option --{name}; {hint}")
    # tyro explains a mistake in a framed box of several lines; people get one sentence instead.
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                type(config),
                prog=program,
                description=description,
                args=overrides,
                default=config,
            )
    except SystemExit as stop:
        if stop.code in (None, 0):  # --help
            raise
        text = re.sub(r"[╭╮╰╯│─]", " ", said.getvalue())
        text = re.sub(r"For full helptext.*", "", text, flags=re.DOTALL)
        text = re.sub(r"^\s*Parsing error\s*", "", re.sub(r"\s+", " ", text).strip())
        # The box's title says what its text begins with.
        text = re.sub(r"^(.+?) \1\b", r"\1", text, flags=re.IGNORECASE)
        raise UserError(f"{text.rstrip('. ')}; see --help for the options.") from None
