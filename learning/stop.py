"""Ctrl-C and SIGTERM as a request to stop after the iteration, not as a crash in the middle of it."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType


class StopRequest:
    """Whether SIGINT or SIGTERM has come. A second one raises KeyboardInterrupt at once."""

    def __init__(self, say: Callable[[str], None]) -> None:
        """Announces the first signal through `say`."""
        self.received = False
        self._say = say

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True
        name = signal.Signals(number).name
        self._say(
            f"{name}: stopping after this iteration, or as soon as compilation is over, with a checkpoint; once more "
            "to stop at once without one."
        )

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Handles both signals inside, and restores the former handlers. Only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
