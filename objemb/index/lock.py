"""At most one writer at a time."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from objemb.index.errors import IndexLockedError, IndexWriteError

LOCK_FILE = "lock"

#: Descriptors of the locks that this process holds.
_held: set[int] = set()


class WriterLock:
    """The right to write to an index, as a context manager.

    The kernel holds the lock (``flock``) and releases it when the process dies, however it dies. The file stays; its
    contents, the holder's process id, only serve the message that others get.

    Raises:
        IndexLockedError: Somebody else has it.
        IndexWriteError: The folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / LOCK_FILE
        self._descriptor: int | None = None

    def __enter__(self) -> WriterLock:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise IndexWriteError(f"{self._path}: cannot lock the index for writing: {error.strerror}") from error
        try:
            _flock(descriptor)
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode("ascii"), 0)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            whose = " (this process)" if holder == str(os.getpid()) else ""
            raise IndexLockedError(
                f"{self._path.parent}: expected no other writer, found process {holder}{whose} writing to this index"
            ) from None
        except OSError as error:
            os.close(descriptor)
            raise IndexWriteError(f"{self._path}: cannot lock the index for writing: {error.strerror}") from error
        _held.add(descriptor)
        self._descriptor = descriptor
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor in _held:
            os.ftruncate(descriptor, 0)
            _flock(descriptor, release=True)
            _held.discard(descriptor)
            os.close(descriptor)


def _flock(descriptor: int, release: bool = False) -> None:
    import fcntl  # not on every system; reading an index works without it

    fcntl.flock(descriptor, fcntl.LOCK_UN if release else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _forget_in_child() -> None:
    """A forked child must not keep its parent's lock alive beyond the parent's death."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):  # not on every system, either
    os.register_at_fork(after_in_child=_forget_in_child)
