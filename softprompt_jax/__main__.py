"""`python -m softprompt_jax`: the commands, in one line each."""

import ast
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


if __name__ == "__main__":
    print(overview())
