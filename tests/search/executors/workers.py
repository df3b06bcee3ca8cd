"""Workers that executors can start in other processes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from objemb.search.executors.base import Worker


class Double:
    """Gives a task twice. ``die FILE N`` first kills N processes, which the file counts; ``fail X`` raises an error."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __call__(self, task: bytes) -> bytes:
        word, _, rest = task.decode().partition(" ")
        if word == "fail":
            raise FileNotFoundError(f"no {rest}")
        if word == "die":
            name, _, times = rest.rpartition(" ")
            file = Path(name)
            died = file.read_text() if file.exists() else ""
            if len(died) < int(times):
                file.write_text(died + "x")
                os.kill(os.getpid(), signal.SIGKILL)
        return task + task


def broken(number: int) -> Worker:
    """Cannot be made."""
    raise LookupError(f"worker {number} of none")
