"""The lock that allows only one writer at a time."""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from objemb.checks import IndexLockedError, IndexWriteError
from objemb.index.storage.files import Folder

LOCK_FILE = "lock"
#: Content of a lock file; a file with other content is not ours.
_PROCESS_ID = re.compile(rb"\d{0,20}\s*")

#: Descriptors of the locks that this process holds.
_held: set[int] = set()


class WriterLock:
    """The exclusive right to write to an index, as a context manager.

    The kernel holds the lock (``flock``) and releases it when the process dies for any reason. The folder is locked, so
    that deleting the ``lock`` file does not let a second writer in, and the file as well, for network file systems that
    can lock only files. The file is kept; its content, the process id of the holder, is used only in messages.

    Attributes:
        folder: The open folder; None outside of the block.

    Raises:
        IndexLockedError: Another process holds the lock.
        IndexWriteError: The folder cannot be written, or the system has no such locks.
    """

    folder: Folder

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self._folder_locked = False

    def __enter__(self) -> WriterLock:
        check_system()
        try:
            self.folder = Folder(self._path)
        except OSError as error:
            raise IndexWriteError(f"{self._path}: cannot lock the index for writing: {error.strerror}") from error
        _held.add(self.folder.descriptor)
        try:
            self._lock()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor in _held:
            with suppress(OSError):  # the content is only for messages: closing releases the lock
                os.ftruncate(self._descriptor, 0)
        self._release()

    def check(self) -> None:
        """Raise ``IndexWriteError`` if the folder or its lock file were moved or replaced since they were locked.

        Otherwise a writer could publish into another index, or name files that a second writer has deleted.
        """
        if not self.folder.is_at_its_path():
            raise IndexWriteError(f"{self._path}: expected the locked folder, found that it was moved or replaced")
        if self._folder_locked:
            return
        try:
            status = os.stat(LOCK_FILE, dir_fd=self.folder.descriptor, follow_symlinks=False)
        except OSError:
            status = None
        if status is None or not os.path.samestat(status, os.fstat(self._descriptor)):
            raise IndexWriteError(
                f"{self._path / LOCK_FILE}: expected the lock file of this writer, found that it was deleted or "
                "replaced, so that another writer may have started; nothing was published"
            )

    def _lock(self) -> None:
        path = self._path / LOCK_FILE
        try:
            self._descriptor = _open_lock_file(self.folder)
        except OSError as error:
            link = error.errno in (errno.ELOOP, errno.EMLINK)
            reason = "expected a file, found a symbolic link" if link else error.strerror
            raise IndexWriteError(f"{path}: cannot lock the index for writing: {reason}") from error
        _held.add(self._descriptor)
        regular = stat.S_ISREG(os.fstat(self._descriptor).st_mode)
        if not regular or not _PROCESS_ID.fullmatch(os.pread(self._descriptor, 64, 0)):
            raise IndexWriteError(f"{path}: cannot lock the index for writing: expected a lock file, found another one")
        try:
            self._folder_locked = _flock_folder(self.folder)
            _flock(self._descriptor)
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode("ascii"), 0)
        except BlockingIOError:
            holder = os.pread(self._descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
            whose = " (this process)" if holder == str(os.getpid()) else ""
            raise IndexLockedError(
                f"{self._path}: expected no other writer, found process {holder}{whose} writing to this index"
            ) from None
        except OSError as error:
            raise IndexWriteError(f"{path}: cannot lock the index for writing: {error.strerror}") from error

    def _release(self) -> None:
        """Close the open files, which releases the locks; in a forked child it does not release them."""
        for descriptor in (self._descriptor, self.folder.descriptor):
            if descriptor in _held:
                _held.discard(descriptor)
                with suppress(OSError):
                    os.close(descriptor)
        self._descriptor = -1


def check_system() -> None:
    """Raise ``IndexWriteError`` unless the system has what writing needs: locks that end with their process, and
    folders that can be held open."""
    if os.name != "posix":
        raise IndexWriteError(
            f"writing an index: expected Linux, macOS or another POSIX system, found {os.name!r}; on Windows use WSL"
        )


def _open_lock_file(folder: Folder) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    return os.open(LOCK_FILE, flags, 0o644, dir_fd=folder.descriptor)


def _flock(descriptor: int) -> None:
    import fcntl  # missing on some systems; reading an index works without it

    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _flock_folder(folder: Folder) -> bool:
    """Lock a folder; False if its file system can lock only files (NFS)."""
    try:
        _flock(folder.descriptor)
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def _forget_in_child() -> None:
    """A forked child must not keep its parent's lock alive beyond the parent's death."""
    while _held:
        os.close(_held.pop())


if hasattr(os, "register_at_fork"):  # missing on some systems
    os.register_at_fork(after_in_child=_forget_in_child)
