"""What the commands share: how they start, and how they tell a mistake."""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from softprompt_jax.config import RunConfig
from softprompt_jax.errors import UserError
from softprompt_jax.recipes import Kind, load_config_of


class Parser(argparse.ArgumentParser):
    """A command's own options; those of the recipe are left to `load_command_config`.

    Args:
        program: name of the command.
        description: its module's docstring.
    """

    def __init__(self, program: str, description: str | None):
        super().__init__(
            prog=program,
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    def error(self, message: str) -> NoReturn:
        """A mistake in the options is told as any other: in one sentence."""
        raise UserError(f"{message}; see --help for the options.")


class KindParser(Parser):
    """A parser that `add_subparsers` makes: one of a command's kinds of work."""

    def __init__(self, prog: str, description: str | None = None, **_: Any):
        super().__init__(prog, description)


def run_command(main: Callable[[Sequence[str]], int]) -> int:
    """Runs a command's `main` with the process's arguments.

    Returns:
        The exit status: 2 for a user's mistake and 1 for a failure that has its own sentence, both
        told in one line; 130 for Ctrl-C; anything else keeps its traceback, because it is a bug.
    """
    from softprompt_jax.compile_cache import use_compile_cache
    from softprompt_jax.training import processes
    from softprompt_jax.training.loop import DivergedError

    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        use_compile_cache()
        return main(sys.argv[1:])
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except (DivergedError, processes.LostProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        status = 130
    except Exception:
        if not processes.joined():
            raise
        traceback.print_exc()
        status = 1
    if processes.joined():
        processes.leave(status, together=status == 2)
    return status


def load_command_config(
    arguments: Sequence[str],
    kind: type[Kind] = RunConfig,
    program: str = "softprompt_jax",
    description: str | None = None,
) -> Kind:
    """The config of `--config FILE` and the overrides beside it.

    Args:
        arguments: of the command line, without the command's own.
        kind: of config.
        program: the command's name, for --help.
        description: what it does, likewise; None: what the config is.

    Raises:
        UserError: as `load_config`, or --config without a file.
    """
    rest: list[str] = []
    paths: list[str] = []
    given = iter(arguments)
    for argument in given:
        name, equals, value = argument.partition("=")
        if name != "--config":
            rest.append(argument)
            continue
        path = value if equals else next(given, None)
        if not path:
            raise UserError("--config needs a file, such as configs/quickstart.py.")
        paths.append(path)
    if len(paths) > 1:
        raise UserError(
            f"--config was given {len(paths)} times ({', '.join(paths)}); give it once."
        )
    if description is not None:
        description += "\n--config FILE takes a recipe; the defaults below are then the recipe's."
    return load_config_of(kind, paths[0] if paths else None, rest, program, description)
