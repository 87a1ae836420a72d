"""SIGTERM and Ctrl-C as a request that the loop answers between two steps."""

import signal
import threading
from types import FrameType, TracebackType

INTERRUPTED = 128 + signal.SIGTERM
"""Exit status of a run that was told to stop and has saved, whichever of its processes was told: a
launcher that starts failed jobs again goes on with it."""


class Interrupt:
    """Within its context, a first SIGTERM or SIGINT only sets `signal`; a second one acts at once.

    Preempted machines send SIGTERM some seconds before they stop. Outside the main thread, where
    Python cannot catch signals, nothing changes.
    """

    CAUGHT = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.CAUGHT}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # pyright: ignore[reportArgumentType]
        self._before = {}
