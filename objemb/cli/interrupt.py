"""Ctrl-C: ends a program at once while it is starting, and raises an exception once it works and has to clean up."""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

#: Exit code of a program that Ctrl-C ended, as in shells: 128 plus the number of the signal.
INTERRUPTED = 130
#: Makes the cursor of a terminal visible, which a progress display hides.
SHOW_CURSOR = "\x1b[?25h"


class Work:
    """Whether a command is running, so that there is something to clean up."""

    begun = False


def listen() -> None:
    """Handle Ctrl-C, unless it is ignored: a program that was started in the background keeps ignoring it.

    Libraries do not expect exceptions while they are imported: they may swallow it, stay half initialised, or crash. At
    that time there is nothing to clean up, so the process ends with one line and exit code 130.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupted)


def stop_listening() -> None:
    """Ignore Ctrl-C if :func:`listen` handles it: the command has ended, and its exit code must not change while the
    interpreter shuts down."""
    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interrupted(number: int, frame: FrameType | None) -> None:
    if Work.begun and not _importing(frame):
        raise KeyboardInterrupt
    os.write(2, f"{SHOW_CURSOR if sys.stderr.isatty() else ''}objemb: interrupted\n".encode())
    os._exit(INTERRUPTED)


def _importing(frame: FrameType | None) -> bool:
    """Whether an import is in progress in the frame or its callers."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False
