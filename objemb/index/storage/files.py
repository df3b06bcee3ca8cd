"""Files that survive power cuts and tell when they were changed: sizes, checksums, atomic replacement.

Writing goes through a :class:`Folder` that is held open, creates files that were not there, and follows no link: a
stranger's index may hold links to any file of its user. Reading follows links (caches of data sets are made of them),
but takes regular files only.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, BinaryIO

import pyarrow as pa

from objemb.checks import ObjembError
from objemb.index.storage.errors import DamagedIndexError, IndexFolderError, IndexWriteError

#: Names that data files of an index have: a number that is never used twice, and what is inside.
DATA_FILE = re.compile(r"\d{8,18}\.[a-z_]{1,32}")
#: What an unfinished replacement of the manifest leaves behind.
TEMPORARY_SUFFIX = ".tmp"
#: Bytes that are read at once to be checked.
CHUNK_BYTES = 1 << 20
#: Smaller files are read when they are opened: a system gives a process some 65,000 maps and 1,000 open files.
SMALL_BYTES = 1 << 17
#: Error numbers of a process that has run out of memory or files: the file itself is in order.
_EXHAUSTED = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


@dataclass(frozen=True)
class FileRecord:
    """A published file: its name in the index folder, its length in bytes, its SHA-256 in hexadecimal digits."""

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        # also keeps a manifest that was tampered with from reaching outside of its folder
        sized = type(self.size) is int and 0 <= self.size < 1 << 62
        if not isinstance(self.name, str) or not DATA_FILE.fullmatch(self.name) or not sized:
            raise ValueError(f"file record: expected a data file and its size, found {self.name!r}, {self.size!r}")
        if not isinstance(self.sha256, str) or not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"file record: expected 64 hexadecimal digits, found {self.sha256!r}")

    def to_json(self) -> dict[str, object]:
        """``{"name", "bytes", "sha256"}``."""
        return {"name": self.name, "bytes": self.size, "sha256": self.sha256}

    @staticmethod
    def from_json(data: dict[str, Any]) -> FileRecord:
        """A record from what :meth:`to_json` made."""
        return FileRecord(data["name"], data["bytes"], data["sha256"])


class Folder:
    """A folder held open, as a context manager: what is done by name is done in this very folder, however its path
    changes meanwhile.

    Attributes:
        path: Where it was when it was opened.
        descriptor: Of the open folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> Folder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.descriptor)

    def is_at_its_path(self) -> bool:
        """Whether its path still leads to this folder."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
        except OSError:
            return False

    def create(self, name: str) -> BinaryIO:
        """A new file, to be written. Raises ``FileExistsError`` where the name is taken, be it by a link to nowhere."""
        opener = partial(os.open, mode=0o666, dir_fd=self.descriptor)
        return open(name, "xb", buffering=1 << 20, opener=opener)

    def unlink(self, name: str) -> None:
        """Remove a name, not what it may be a link to; fine where it is not there."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def replace(self, name: str, data: bytes) -> None:
        """Replace a file such that any reader, and the disk after a power cut, has the old contents or the new."""
        temporary = name + TEMPORARY_SUFFIX
        self.unlink(temporary)
        with self.create(temporary) as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.fsync(self.descriptor)  # the files that the new contents name must be found after a power cut
        os.rename(temporary, name, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        os.fsync(self.descriptor)


class NewFile:
    """A new file that hashes and counts what is written, and reaches the disk before its record exists."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._name = name
        self._hash = hashlib.sha256()
        self._size = 0
        self._file = folder.create(name)

    def write(self, data: Any) -> None:
        """Append bytes (anything with the buffer protocol)."""
        view = memoryview(data)
        if not view.nbytes:  # a view of nothing cannot be cast
            return
        view = view.cast("B")
        self._file.write(view)
        self._hash.update(view)
        self._size += len(view)

    def finish(self) -> FileRecord:
        """Force everything to the disk and close."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileRecord(self._name, self._size, self._hash.hexdigest())

    def abandon(self) -> None:
        """Close without caring for the contents (the disk may be full)."""
        with suppress(OSError):
            self._file.close()


def write_file(folder: Folder, name: str, data: object) -> FileRecord:
    """Write a whole new file."""
    file = NewFile(folder, name)
    try:
        file.write(data)
        return file.finish()
    finally:
        file.abandon()


def open_file(path: Path) -> BinaryIO:
    """A regular file, unbuffered, to be read; a pipe, a device or the like would block or never end.

    Raises:
        FileNotFoundError: The file is gone, perhaps because a newer state was published.
        DamagedIndexError: It is no regular file, or cannot be read.
        IndexFolderError: This process may not read it, or has no more files to open.
    """
    try:
        # without O_NONBLOCK, opening a pipe waits for somebody to write to it
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise unreadable(path, error) from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe" if stat.S_ISFIFO(mode) else "a device or a socket"
        raise DamagedIndexError(f"{path}: cannot be read: expected a regular file, found {kind}")
    return os.fdopen(descriptor, "rb", buffering=0)


class StoredFile:
    """A published file that is read when it is first needed; at once if it is small.

    It stays readable when it is deleted before. It is read and not mapped because a process dies that looks into the
    map of a file that was cut short, as by a copy over an index that is in use.

    Args:
        folder: Folder of the index.
        record: The file.
        hold: Whether a large one may be held open until it is needed; otherwise it is read at once, too.

    Raises:
        FileNotFoundError: The file is gone.
        DamagedIndexError: It has another length than it should, or cannot be read.
    """

    def __init__(self, folder: Path, record: FileRecord, hold: bool = True) -> None:
        self._path = folder / record.name
        self._record = record
        self._lock = Lock()
        self._content: pa.Buffer | None = None
        self._checked = False
        self._file = open_file(self._path)
        # closes without the warning that an open file would give when a reader drops an index
        self._close = weakref.finalize(self, self._file.close)
        _check_size(self._path, record, os.fstat(self._file.fileno()).st_size)
        if record.size < SMALL_BYTES or not hold:
            self._read()

    def content(self) -> pa.Buffer:
        """All of it, checked: no parser ever sees damaged bytes.

        Raises:
            DamagedIndexError: The file was changed.
        """
        with self._lock:
            content = self._content if self._content is not None else self._read()
            if not self._checked:
                check_buffer(self._path.parent, self._record, content)
                self._checked = True
        return content

    def _read(self) -> pa.Buffer:
        content = pa.allocate_buffer(self._record.size)
        view, at = memoryview(content), 0
        try:
            while count := _read_into(self._file, view[at : at + CHUNK_BYTES], at):
                at += count
        except OSError as error:
            raise unreadable(self._path, error) from error
        _check_size(self._path, self._record, at)
        self._close()
        self._content = content
        return content


def _read_into(file: BinaryIO, view: memoryview, at: int) -> int:
    """Read from a place of a file; returns the number of bytes, 0 at its end or for an empty view."""
    if not len(view):
        return 0
    if hasattr(os, "preadv"):  # a forked child shares the position of an open file with its parent
        return os.preadv(file.fileno(), [view], at)
    file.seek(at)
    count: int = file.readinto(view)  # type: ignore[attr-defined]
    return count


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a regular file, at most ``most`` of them. Raises as :func:`open_file`."""
    with open_file(path) as file:
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise unreadable(path, error) from error
    if len(data) > most:
        raise DamagedIndexError(f"{path}: expected at most {most} bytes, found more")
    return data


def map_file(folder: Path, record: FileRecord) -> pa.Buffer:
    """A published file, mapped into memory unless it is small. It stays readable when it is deleted meanwhile.

    Arrow's mapping keeps no file descriptor open, so an index may have thousands of segments.

    Raises:
        FileNotFoundError: The file is gone, perhaps because a newer state was published.
        DamagedIndexError: It has another length than it should, or cannot be read.
        IndexFolderError: The system gives this process no more maps.
    """
    path = folder / record.name
    with open_file(path) as file:  # what would block is refused before Arrow opens the path
        found = os.fstat(file.fileno()).st_size
        _check_size(path, record, found)
        if record.size < SMALL_BYTES:
            return pa.py_buffer(read_file(path, record.size))
    try:
        with pa.memory_map(str(path)) as mapped:
            _check_size(path, record, mapped.size())
            return mapped.read_buffer()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DamagedIndexError | IndexFolderError:
    """What it means that a file cannot be opened or read: not every reason is damage."""
    reason = error.strerror or str(error)
    if error.errno in _EXHAUSTED or "Cannot allocate memory" in reason:
        hint = "this process has no more files or maps to open; 'objemb compact' joins segments, and each needs one"
        return IndexFolderError(f"{path}: cannot be opened: {reason}: {hint}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return IndexFolderError(f"{path}: cannot be read: {reason}")
    return DamagedIndexError(f"{path}: cannot be read: {reason}")


def check_buffer(folder: Path, record: FileRecord, buffer: Any) -> None:
    """Raise ``DamagedIndexError`` unless a buffer has the recorded checksum."""
    found = hashlib.sha256(buffer).hexdigest()
    if found != record.sha256:
        raise DamagedIndexError(f"{folder / record.name}: expected SHA-256 {record.sha256}, found {found}")


def check_file(folder: Path, record: FileRecord, on_bytes: Callable[[int], None] = lambda count: None) -> str | None:
    """What is wrong with a published file (every byte is read, and told to ``on_bytes``), or None."""
    digest = hashlib.sha256()
    try:
        with open_file(folder / record.name) as file:
            size = os.fstat(file.fileno()).st_size
            if size != record.size:
                return f"{record.name}: expected {record.size} bytes, found {size}"
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                on_bytes(len(chunk))
    except ObjembError as error:
        return f"{record.name}: {str(error).removeprefix(f'{folder / record.name}: ')}"
    except OSError as error:
        return f"{record.name}: cannot be read: {error.strerror or error}"
    found = digest.hexdigest()
    return None if found == record.sha256 else f"{record.name}: expected SHA-256 {record.sha256}, found {found}"


def _check_size(path: Path, record: FileRecord, found: int) -> None:
    if found != record.size:
        raise DamagedIndexError(f"{path}: expected {record.size} bytes, found {found}")


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Turn failures of the file system into one clear error."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise IndexWriteError(f"{folder}: cannot write the index: {reason}; what was published is intact") from error
