"""Exit codes, and errors as one clear line on stderr."""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Iterator
from typing import TypeVar

import typer

from objemb.cli.interrupt import INTERRUPTED, Work
from objemb.cli.output import complain

F = TypeVar("F", bound=Callable[..., None])

#: What scripts can rely on.
OK, INTERNAL, USAGE, SKIPPED, MISMATCH, TERMINATED = 0, 1, 2, 3, 4, 143


#: What an interrupted command leaves.
KEPT = "interrupted; what was published is kept, the same command continues there"


class Settings:
    """What the options before the command said."""

    debug = False


def exit_code(error: BaseException) -> int:
    """The exit code for an error: 4 mismatch or damage, 2 the user can mend it, 1 a fault of objemb; 130 Ctrl-C, 143
    SIGTERM.
    """
    if isinstance(error, KeyboardInterrupt):  # first: what is imported below may not be there yet
        return INTERRUPTED

    from objemb.checks import ArtefactMismatchError, ObjembError, TerminatedError
    from objemb.index.storage.errors import DamagedIndexError

    if isinstance(error, (ArtefactMismatchError, DamagedIndexError)):
        return MISMATCH
    if isinstance(error, TerminatedError):
        return TERMINATED
    if isinstance(error, (ObjembError, ValueError, TypeError, OSError, ImportError)):
        return USAGE
    return INTERNAL


@contextlib.contextmanager
def one_line_errors(name: str = "objemb", interrupted: str = KEPT) -> Iterator[None]:
    """Turn whatever is raised inside into one line on stderr and an exit code; ``--debug`` shows the traceback.

    Args:
        name: What the line begins with: the command, such as ``objemb train``.
        interrupted: What to say after Ctrl-C.
    """
    Work.begun = True
    try:
        yield
    except (typer.Exit, typer.Abort):
        raise
    except (Exception, KeyboardInterrupt) as error:
        broken_pipe = isinstance(error, OSError) and error.errno == errno.EPIPE
        if Settings.debug or broken_pipe:
            raise
        code = exit_code(error)
        for line in f"{name}: {interrupted if code == INTERRUPTED else _message(error, code)}".split("\n"):
            complain(line)
        raise typer.Exit(code) from None
    finally:
        Work.begun = False


def guarded(command: F) -> F:
    """A command within :func:`one_line_errors`."""

    @functools.wraps(command)
    def run(*args: object, **kwargs: object) -> None:
        with one_line_errors():
            command(*args, **kwargs)

    return run  # type: ignore[return-value]


def _message(error: BaseException, code: int) -> str:
    from objemb.index.filters.syntax import WhereError

    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, WhereError):
        return str(error)  # its second and third line point at the place
    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "torchvision"):
        return "this command needs PyTorch: pip install 'objemb[torch]'"
    text = " ".join(str(error).split()) or type(error).__name__
    if code == INTERNAL:
        return f"internal error: {type(error).__name__}: {text} ('objemb --debug ...' shows where)"
    return text
