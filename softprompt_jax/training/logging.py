"""What a run tells while it goes: metrics.jsonl, TensorBoard and a progress bar."""

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from softprompt_jax.files import write_text
from softprompt_jax.progress import progress_bar


class RunLog:
    """Writes scalars to `metrics.jsonl` (one JSON object a line) and `tensorboard/`.

    Args:
        workdir: the run's folder.
        first_step: step that the run starts after. What an earlier, killed part of the run told of
            later steps, or of the test split at its end, is dropped, since it comes again.
        steps: steps of the whole run, for the bar.
        writes: False: it does nothing, on all processes of a job but the first.
    """

    def __init__(self, workdir: Path, first_step: int, steps: int, *, writes: bool = True):
        self._writes = writes
        if not writes:
            return
        # Here and not above: it imports torch where there is one, which takes over a second.
        from tensorboardX import SummaryWriter

        path = workdir / "metrics.jsonl"
        kept = [line for line in _whole_lines(path) if _stays(json.loads(line), first_step)]
        write_text(path, "".join(kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = SummaryWriter(str(workdir / "tensorboard"), purge_step=first_step + 1)
        self._bar = progress_bar(steps, "step", initial=first_step, dynamic_ncols=True)
        self._shown: dict[str, str] = {}

    def advance(self, step: int, **shown: str) -> None:
        """Moves the bar to a step; what is shown stays until it is shown anew."""
        if not self._writes:
            return
        self._shown |= shown
        self._bar.set_postfix(self._shown, refresh=False)
        self._bar.update(step - self._bar.n)

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Logs scalars of a step; a number that is not finite becomes null in the JSON."""
        if not self._writes:
            return
        line = {"step": step} | {
            name: value if math.isfinite(value) else None for name, value in metrics.items()
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)

    def say(self, message: str) -> None:
        """Prints a line above the bar."""
        if self._writes:
            tqdm.write(message, file=sys.stderr)

    def close(self) -> None:
        """Ends the bar and the files."""
        if not self._writes:
            return
        self._bar.close()
        self._board.close()
        self._file.close()


def _stays(line: Mapping[str, Any], first_step: int) -> bool:
    tells_of_the_end = any(name.startswith(("test/", "evaluate_on/")) for name in line)
    return 0 < first_step >= line["step"] and not tells_of_the_end


def _whole_lines(path: Path) -> list[str]:
    """The file's lines that were written to their end; a killed run may leave a broken one."""
    lines = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
            try:
                value: Any = json.loads(line)
            except json.JSONDecodeError:
                continue
            if isinstance(value, dict) and "step" in value and line.endswith("\n"):
                lines.append(line)
    return lines
