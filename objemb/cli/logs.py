"""What `-v`, `-q` and `--log-file` do: where the messages of the library and of the commands go.

The library logs under the name ``objemb`` and leaves it to programs what becomes of that; this is the program.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from objemb.cli.output import Said, said
from objemb.text import visible

#: By how often ``-v`` was said.
LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
#: Loggers of work that takes minutes; their messages appear without ``-v`` as well.
ALWAYS = ("objemb.weights.download",)
FORMAT = "%(asctime)s %(levelname)s %(message)s"


class StderrHandler(logging.Handler):
    """Records as lines on what is stderr at that moment, which a progress display may have replaced.

    Args:
        least: The level from which on they are shown; those of :data:`ALWAYS` are unless it is that of errors.
    """

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        told = record.name in ALWAYS and record.levelno >= logging.INFO and self.least < logging.ERROR
        return record.levelno >= self.least or told

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        try:
            text = f"{record.levelname.lower()}: {record.getMessage()}"
            print(visible(text), file=sys.stderr)
        except Exception:
            self.handleError(record)


class LineFormatter(logging.Formatter):
    """A line a record, in which nothing is hidden: messages hold the names of foreign files."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line."""
        record.message = visible(record.message)
        return super().formatMessage(record)


def configure(verbose: int = 0, *, quiet: bool = False, file: Path | None = None) -> None:
    """Send messages where the options say; what an earlier call has set up is taken away.

    Args:
        verbose: How often ``-v`` was said: 0 for warnings, 1 for what is done, 2 for details.
        quiet: Errors alone are printed; the file still gets everything.
        file: Gets all lines as well, with time and level, behind those that are there.

    Raises:
        OSError: The file cannot be written.
    """
    root = logging.getLogger("objemb")
    for logger in (root, said):
        for handler in list(logger.handlers):
            if isinstance(handler, (StderrHandler, logging.FileHandler)):
                logger.removeHandler(handler)
                handler.close()
    Said.quiet = quiet
    shown = StderrHandler(logging.ERROR if quiet else LEVELS[min(verbose, len(LEVELS) - 1)])
    root.addHandler(shown)
    said.setLevel(logging.INFO)
    root.setLevel(min(shown.least, logging.INFO))
    if file is not None:
        kept = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
        kept.setFormatter(LineFormatter(FORMAT))
        for logger in (root, said):
            logger.addHandler(kept)
