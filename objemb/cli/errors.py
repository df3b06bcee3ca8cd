"""Exit codes, and errors as one clear line on stderr."""

from __future__ import annotations

import contextlib
import errno
import functools
from collections.abc import Callable, Iterator
from typing import ParamSpec

import typer

from objemb.cli.interrupt import INTERRUPTED, Work
from objemb.cli.output import complain

P = ParamSpec("P")

#: Exit codes, on which scripts can rely.
OK, INTERNAL, USAGE, SKIPPED, MISMATCH, TERMINATED = 0, 1, 2, 3, 4, 143


#: Message of an interrupted command.
KEPT = "interrupted; everything published is kept, and the same command resumes from there"


class Settings:
    """Values of the options before the command."""

    debug = False


def exit_code(error: BaseException) -> int:
    """The exit code for an error: 4 for mismatch or damage, 2 if the user can fix it, 1 for a fault of objemb, 130 for
    Ctrl-C, 143 for SIGTERM.
    """
    if isinstance(error, KeyboardInterrupt):  # first, since the imports below may be interrupted
        return INTERRUPTED

    from objemb.checks import ArtefactMismatchError, DamagedIndexError, ObjembError, TerminatedError

    if isinstance(error, (ArtefactMismatchError, DamagedIndexError)):
        return MISMATCH
    if isinstance(error, TerminatedError):
        return TERMINATED
    if isinstance(error, (ObjembError, ValueError, TypeError, OSError, ImportError)):
        return USAGE
    return INTERNAL


@contextlib.contextmanager
def one_line_errors(name: str = "objemb", interrupted: str = KEPT) -> Iterator[None]:
    """Turn any exception inside into one line on stderr and an exit code; ``--debug`` shows the traceback.

    Args:
        name: Beginning of the line: the command, such as ``objemb train``.
        interrupted: Message after Ctrl-C.
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


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command in :func:`one_line_errors`."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        with one_line_errors():
            command(*args, **kwargs)

    return run


def _message(error: BaseException, code: int) -> str:
    from objemb.index.filters.syntax import WhereError

    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, WhereError):
        return str(error)  # its second and third line point at the position
    if isinstance(error, ModuleNotFoundError) and error.name in ("torch", "torchvision"):
        return str(error) if "pip install" in str(error) else "this command needs PyTorch: pip install 'objemb[torch]'"
    text = " ".join(str(error).split()) or type(error).__name__
    if code == INTERNAL:
        return f"internal error: {type(error).__name__}: {text} ('objemb --debug ...' shows where)"
    return text
