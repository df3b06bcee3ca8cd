"""Ctrl-C: the end at once while a program is starting, an exception that it can clean up after while it works."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

#: The exit code of a program that Ctrl-C ended, as shells have it: 128 and the number of the signal.
INTERRUPTED = 130
#: Makes the cursor of a terminal visible, which a progress display hides.
SHOW_CURSOR = "\x1b[?25h"


class Work:
    """Whether a command is at work, so that there is something to clean up."""

    begun = False


def listen() -> None:
    """Take over Ctrl-C, where nobody else has: a program that was started in the background stays deaf to it.

    Libraries that are being imported do not expect an exception between any two lines: they swallow it, go on half
    made, or crash. What runs then has nothing to lose, so the process ends with one line and the exit code 130.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def stop_listening() -> None:
    """Ignore Ctrl-C where :func:`listen` took it over: the command has ended, and its exit code must not change
    while the interpreter is taken down."""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupted(number: int, frame: FrameType | None) -> None:
    if Work.begun and not _importing(frame):
        raise KeyboardInterrupt
    os.write(2, f"{SHOW_CURSOR if sys.stderr.isatty() else ''}objemb: interrupted\n".encode())
    os._exit(INTERRUPTED)


def _importing(frame: FrameType | None) -> bool:
    """Whether an import is under way in the frame or below."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
