"""`python -m softprompt_jax`: the commands, in one line each; with a name after it, that one."""

import ast
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

COMMANDS = (
    "train",
    "inspect_task",
    "evaluate",
    "predict",
    "export",
    "analyze",
    "plan",
    "pretrain",
    "reproduce",
    "bench",
)


def overview() -> str:
    """Each command with what the first line of its module says that it does."""
    lines = ["python -m softprompt_jax.COMMAND, one of:", ""]
    for name in COMMANDS:
        # Read, not imported: a list should not wait for all that the commands need.
        source = (Path(__file__).parent / f"{name}.py").read_text()
        first = (ast.get_docstring(ast.parse(source)) or "").splitlines()[0]
        lines.append(f"  {name:<14}{first.partition(': ')[2]}")
    lines += ["", "Each tells its options with --help."]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Runs `softprompt_jax.COMMAND` with what follows its name; without one, lists them."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        print(
            f"error: There is no command {name}; choose one of {', '.join(COMMANDS)}.",
            file=sys.stderr,
        )
        return 2
    sys.argv = [name, *rest]
    runpy.run_module(f"softprompt_jax.{name}", run_name="__main__", alter_sys=True)
    return 0  # not reached: a command ends by itself


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
