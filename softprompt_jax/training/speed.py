"""How fast a run goes, what memory it takes, and a trace of some of its steps."""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax

from softprompt_jax.data import Shape
from softprompt_jax.training.chips import chip_of
from softprompt_jax.training.parallel import Device
from softprompt_jax.training.workdir import Progress


class Speed:
    """Rates since the last line of the log, of steps that compiled nothing.

    A step's time ends when its metrics are there, and begins when those of the step before were, or
    with its own start where nothing was in flight.

    Args:
        progress: of the run, whose totals are counted up here.
        flops_of: a step's least FLOPs by its shape.
        devices: all that a step runs on.
    """

    def __init__(
        self, progress: Progress, flops_of: Callable[[Shape], int], devices: Sequence[Device]
    ):
        self._progress = progress
        self._flops_of = flops_of
        chip = chip_of(devices[0])
        self._clock = time.monotonic()
        self._peak = None if chip is None else chip.peak_flops * len(devices)
        self._forget()

    def _forget(self) -> None:
        self._examples, self._seconds = self._progress.timed_examples, self._progress.timed_seconds
        self._real = self._padded = self._flops = 0

    def start(self) -> None:
        """Before a step, when nothing is in flight."""
        self._clock = time.monotonic()

    def add(self, shape: Shape, examples: int, tokens: tuple[int, int]) -> None:
        """Counts a step whose metrics are there now.

        Args:
            shape: of the batch.
            examples: of the whole batch.
            tokens: real ones, and with padding.
        """
        now = time.monotonic()
        self._progress.timed_examples += examples
        self._progress.timed_seconds += now - self._clock
        self._clock = now
        self._real += tokens[0]
        self._padded += tokens[1]
        self._flops += self._flops_of(shape)

    def line(self) -> dict[str, float]:
        """Rates since the last call, by name; none if no step was counted.

        `flop_utilization` is the least that the model needs over what the chips can do at most;
        only where the chip is known.

        References:
            Chowdhery et al. 2022, "PaLM", appendix B.
        """
        examples = self._progress.timed_examples - self._examples
        seconds = self._progress.timed_seconds - self._seconds
        if not examples or seconds <= 0:
            return {}
        rates = {
            "examples_per_second": examples / seconds,
            "tokens_per_second": self._real / seconds,
            "padded_tokens_per_second": self._padded / seconds,
        }
        if self._peak is not None:
            rates["flop_utilization"] = self._flops / seconds / self._peak
        self._forget()
        return rates


def memory_in_use() -> dict[str, float]:
    """Bytes by name: of the fullest device of this process, else of the process itself."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    used = [each for each in stats if each and "bytes_in_use" in each]
    if used:
        told = {"memory/device_bytes": float(max(each["bytes_in_use"] for each in used))}
        peaks = [each["peak_bytes_in_use"] for each in used if "peak_bytes_in_use" in each]
        return told | ({"memory/device_peak_bytes": float(max(peaks))} if peaks else {})
    with contextlib.suppress(OSError):  # only Linux has it
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return {"memory/host_bytes": float(pages * os.sysconf("SC_PAGE_SIZE"))}
    return {}


class Trace:
    """A trace from the first step that compiles nothing, for TensorBoard or Perfetto.

    What comes between its steps is in it too, such as an evaluation; so is a later step that
    compiles another shape, which counts as one.

    Args:
        folder: that it is written to.
        steps: number of steps; None: no trace.
    """

    def __init__(self, folder: Path, steps: int | None):
        self._folder = folder
        self._left = steps or 0
        self._runs = False

    def start(self) -> None:
        """Before a step that compiles nothing; the first call begins the trace."""
        if self._left and not self._runs:
            jax.profiler.start_trace(self._folder)
            self._runs = True

    def count(self) -> bool:
        """After a step; True: it is the last one, whose result is to be waited for, then `stop`."""
        if self._runs:
            self._left -= 1
        return self._runs and not self._left

    def stop(self) -> None:
        """Writes what is traced."""
        if self._runs:
            jax.profiler.stop_trace()
            self._runs, self._left = False, 0
