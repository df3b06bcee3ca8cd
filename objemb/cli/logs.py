"""The options `-v`, `-q` and `--log-file`: where messages of the library and of the commands are printed.

The library logs under the name ``objemb`` and leaves handling to the program, which is done here.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from objemb.cli.output import Said, said
from objemb.text import visible

#: Level by the number of ``-v``.
LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)
#: Loggers of work that takes minutes; their messages appear without ``-v`` as well.
ALWAYS = ("objemb.weights.download",)
FORMAT = "%(asctime)s %(levelname)s %(message)s"


class StderrHandler(logging.Handler):
    """Prints records as lines on the current stderr, which a progress display may have replaced.

    Args:
        least: Minimum level of the records; those of :data:`ALWAYS` are shown unless it is that of errors.
    """

    def __init__(self, least: int) -> None:
        super().__init__()
        self.least = least

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        always = record.name in ALWAYS and record.levelno >= logging.INFO and self.least < logging.ERROR
        return record.levelno >= self.least or always

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record."""
        try:
            text = f"{record.levelname.lower()}: {record.getMessage()}"
            print(visible(text), file=sys.stderr)
        except Exception:
            self.handleError(record)


class LineFormatter(logging.Formatter):
    """One line per record, with control characters escaped, since messages contain the names of files."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        record.message = visible(record.message)
        return super().formatMessage(record)


def configure(verbose: int = 0, *, quiet: bool = False, file: Path | None = None) -> None:
    """Set up the handlers for these options, replacing those of an earlier call.

    Args:
        verbose: Number of ``-v``: 0 for warnings, 1 for what is being done, 2 for details.
        quiet: Whether only errors are printed; the file still gets everything.
        file: File to which all lines are appended, with time and level.

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
