"""The contract of what runs tasks in other processes, here or on other machines."""

from __future__ import annotations

import builtins
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar, Self, TypeAlias

from objemb import checks, registry
from objemb.checks import ObjembError
from objemb.registry import Plugin

#: Turns a task into a result; both are bytes, so that they pass any border between processes.
Worker: TypeAlias = Callable[[bytes], bytes]
#: Makes the worker of a process, given the number of the process; has to be picklable, with what it holds.
Start: TypeAlias = Callable[[int], Worker]


class Executor(Plugin, ABC):
    """Runs tasks in several processes, each with a worker of its own that is made once.

    Attributes:
        expected: How the place after the name is written, for messages, such as ``processes=4``.
        threads: Threads that a worker may compute with, unless the user says another number.
    """

    kind = "search.executors"
    expected: ClassVar[str] = ""
    threads: int

    @classmethod
    @abstractmethod
    def at(cls, place: str) -> Self:
        """The executor at a place: what follows the name and ``=`` or ``://``, or an empty text.

        Raises:
            ValueError: The place is not written as :attr:`expected`.
        """

    @abstractmethod
    def map(self, start: Start, tasks: Iterable[bytes], *, threads: int, accelerated: bool) -> Iterator[bytes]:
        """The results of tasks, in any order, as they are done. Processes end when the iterator is closed.

        A task whose process dies is given to another process. If that dies, too, the task has no result: one task that
        kills every process must not stop the others. Nor does it matter if a result comes twice; the caller compares
        what it has asked for with what it has got.

        Args:
            start: Makes the worker of a process.
            tasks: Taken as they are needed, in the thread of the caller.
            threads: Threads that a worker computes with.
            accelerated: Whether workers use a GPU each, if there are any.

        Raises:
            Exception: A worker could not be made, or failed; the error has the type and the text of the worker's, if it
                is one of Python's or of objemb's, and is an ``ObjembError`` otherwise.
            ImportError: A library is not installed; the message contains the command that installs it.
        """


def executor_of(text: str) -> Executor:
    """The executor that ``--on`` names: ``NAME``, ``NAME=PLACE`` or ``NAME://PLACE``.

    Raises:
        ValueError: There is no executor of this name, or its place is wrong.
    """
    name, _, place = text.partition("://") if "://" in text else text.partition("=")
    checks.one_of("--on", name, registry.names(Executor.kind))
    return registry.load(Executor, name).at(place)


def packed_error(error: BaseException) -> tuple[str, str]:
    """An error as ``(name of its type, text)``, to be raised in another process by :func:`raise_packed`."""
    return type(error).__name__, str(error)


def raise_packed(kind: str, text: str) -> None:
    """Raise an error that :func:`packed_error` has taken apart."""
    known = getattr(checks, kind, None) or getattr(builtins, kind, None)
    if not (isinstance(known, type) and issubclass(known, Exception)) or issubclass(known, UnicodeError):
        raise ObjembError(f"{kind}: {text}")
    raise known(text)
