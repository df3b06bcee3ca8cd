"""Graceful end of a run on SIGTERM, as sent by schedulers and containers."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any


class Termination:
    """Context manager that records SIGTERM, so that a run can save its state and end between two steps.

    Outside the main thread, where handlers cannot be set, the signal keeps its effect.

    Args:
        quiet: Whether to print nothing on stderr when the signal arrives.

    Attributes:
        asked: Whether the signal has arrived.
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
        """Install this handler again, replacing one that was set meanwhile."""
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._come)

    def _come(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if not self.asked and not self.quiet:
            os.write(2, b"SIGTERM: ending after this step\n")  # print() is not re-entrant
        self.asked = True
