"""SIGTERM, with which schedulers, containers and people ask a run to end."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class Termination:
    """Makes a flag of SIGTERM within, as a context manager, so that a run can end between two steps with all it knows.

    Outside the main thread, where handlers cannot be set, the signal does what it did.

    Args:
        quiet: Do not say on stderr that the signal has come.

    Attributes:
        asked: Whether it has come.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.asked, self.quiet = False, quiet
        self._before: Any = None

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.getsignal(signal.SIGTERM)
            self.take_over()
        return self

    def __exit__(self, *error: object) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_DFL if self._before is None else self._before)

    def take_over(self) -> None:
        """Be the only handler, also where another one was set meanwhile."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._come)

    def _come(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if not self.asked and not self.quiet:
            os.write(2, b"SIGTERM: ending after this step\n")  # a stream may be in the middle of a line of its own
        self.asked = True
