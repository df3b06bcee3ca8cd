"""Exit codes, and errors as one clear line on stderr."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from typing import TypeVar

import typer

from objemb.cli.interrupt import INTERRUPTED, Work
from objemb.cli.output import note

F = TypeVar("F", bound=Callable[..., None])

#: What scripts can rely on.
OK, INTERNAL, USAGE, SKIPPED, MISMATCH = 0, 1, 2, 3, 4


class Settings:
    """What the options before the command said."""

    debug = False


def exit_code(error: BaseException) -> int:
    """The exit code for an error: 4 mismatch or damage, 2 the user can mend it, 130 Ctrl-C, 1 a fault of objemb."""
    if isinstance(error, KeyboardInterrupt):  # first: what is imported below may not be there yet
        return INTERRUPTED

    from objemb.checks import ArtefactMismatchError, ObjembError
    from objemb.index.errors import DamagedIndexError

    if isinstance(error, (ArtefactMismatchError, DamagedIndexError)):
        return MISMATCH
    if isinstance(error, (ObjembError, ValueError, TypeError, OSError, ImportError)):
        return USAGE
    return INTERNAL


def guarded(command: F) -> F:
    """Turn whatever a command raises into one line on stderr and an exit code; ``--debug`` shows the traceback."""

    @functools.wraps(command)
    def run(*args: object, **kwargs: object) -> None:
        Work.begun = True
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, KeyboardInterrupt) as error:
            broken_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
            if Settings.debug or broken_pipe:
                raise
            code = exit_code(error)
            for line in f"objemb: {_message(error, code)}".split("\n"):
                note(line)
            raise typer.Exit(code) from None
        finally:
            Work.begun = False

    return run  # type: ignore[return-value]


def _message(error: BaseException, code: int) -> str:
    if code == INTERRUPTED:
        return "interrupted; what was published is kept, the same command continues there"

    from objemb.index.where import WhereError

    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, WhereError):
        return str(error)  # its second and third line point at the place
    text = " ".join(str(error).split()) or type(error).__name__
    if code == INTERNAL:
        return f"internal error: {type(error).__name__}: {text} ('objemb --debug ...' shows where)"
    return text
