"""The processes that are measured: one a side, asked in turn over pipes, a JSON object a line."""

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from softprompt_jax.errors import UserError
from softprompt_jax.progress import tell

# Runs a module without the package's `__init__`, which imports jax.
_BARE = f"""
import runpy, sys, types
package = types.ModuleType("softprompt_jax")
package.__path__ = [{str(Path(__file__).parents[1])!r}]
sys.modules["softprompt_jax"] = package
runpy.run_module("{{}}", run_name="__main__")
"""


class Worker:
    """A process that runs a module's `serve`, idle while it is not asked.

    Each side has a process of its own, so that its peak memory is its own and so that the thread
    pools of two frameworks do not meet.

    Args:
        module: the module to run.
        setup: its first message; the constructor waits for the answer.
        log: file for whatever the process says beside its answers.
        without_jax: whether the module must not find jax and all of ours in its memory.

    Attributes:
        about: the answer to the setup.

    Raises:
        UserError: the process met a mistake of the user.
    """

    def __init__(self, module: str, setup: dict[str, Any], log: Path, without_jax: bool = False):
        self._module = module
        self._log = log
        with log.open("wb") as errors:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    *(["-c", _BARE.format(module)] if without_jax else ["-m", module]),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        try:
            self.about = self.ask(setup)
        except BaseException:
            self.close()
            raise

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Sends a message and waits for its answer.

        Raises:
            UserError: the process met a mistake of the user.
            RuntimeError: it ended without an answer.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        line = ""
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            pass  # it is gone; its log says why
        if not line:
            status = self._process.wait()
            said = self._log.read_text(errors="replace").strip()[-4000:]
            raise RuntimeError(f"{self._module} ended with status {status}:\n{said}")
        answer = json.loads(line)
        if "user_error" in answer:
            raise UserError(answer["user_error"])
        return answer

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.terminate()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Workers(contextlib.ExitStack):
    """The processes of one measurement, which end with it.

    Attributes:
        folder: what they may leave for each other; it goes with them.
    """

    def __init__(self):
        super().__init__()
        folder = self.enter_context(tempfile.TemporaryDirectory(prefix="softprompt_bench_"))
        self.folder = Path(folder)

    def start(
        self, name: str, module: str, setup: dict[str, Any], without_jax: bool = False
    ) -> Worker:
        """Starts one.

        Args:
            name: what people are told.
            module: of this package.
            setup: as for `Worker`.
            without_jax: likewise.

        Raises:
            UserError: the process met a mistake of the user.
        """
        tell(f"Starting {name} …")
        log = self.folder / f"{name}.log"
        worker = Worker(f"{__package__}.{module}", setup, log, without_jax)
        return self.enter_context(worker)

    def start_peft(self, module: str, setup: dict[str, Any]) -> dict[str, Worker]:
        """Starts both of PEFT's sides.

        Args:
            module: of this package; its setup's `grouped` tells whether rows of like lengths share
                a batch, and its answer has PEFT's `version`.
            setup: the rest of it.

        Returns:
            The processes by name.

        Raises:
            UserError: as `start`.
        """
        random = self.start("PEFT", module, setup | {"grouped": False}, without_jax=True)
        grouped = self.start("PEFT, grouped", module, setup | {"grouped": True}, without_jax=True)
        name = f"PEFT {random.about['version']}"
        return {f"{name}, random order": random, f"{name}, grouped by length": grouped}


def check_installed() -> None:
    """Finds out whether PEFT's side can run before anything is loaded.

    Raises:
        UserError: torch or peft is missing.
    """
    missing = [name for name in ("torch", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"The comparison needs {' and '.join(missing)}, which is not installed; run "
            '`pip install "softprompt-jax[bench]"`, or measure with --against none.'
        )


Answerer = Callable[[dict[str, Any]], dict[str, Any]]


def serve(start: Callable[[dict[str, Any]], tuple[dict[str, Any], Answerer]]) -> None:
    """The worker's end: answers messages until there are no more.

    Args:
        start: from the setup message to its answer and to the function that answers later ones.
    """
    # What libraries print must not get among the answers: from here on it goes to the log.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    try:
        about, reply = start(json.loads(sys.stdin.readline()))
        say(about)
        for line in sys.stdin:
            say(reply(json.loads(line)))
    except UserError as error:
        say({"user_error": str(error)})


def peak_memory_bytes() -> int:
    """The most memory that this process has had resident so far."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not ru_maxrss: on Linux a process starts with the size of the one that started it.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
