"""Durable files with sizes and checksums, and their atomic replacement.

Files are created relative to an open :class:`Folder`, never overwrite existing files and follow no links, since an
index from elsewhere may contain links to any file of the user. Reading follows links (caches of data sets consist of
them), but only to regular files.
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
from io import FileIO
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import BinaryIO, TypedDict

import pyarrow as pa

from objemb.checks import DamagedIndexError, IndexFolderError, IndexWriteError, ObjembError
from objemb.types import Buffer

#: Names of the data files of an index: a number that is never reused, and the kind of content.
DATA_FILE = re.compile(r"\d{8,18}\.[a-z_]{1,32}")
#: Temporary file of the manifest, left behind by an interrupted replacement.
TEMPORARY_SUFFIX = ".tmp"
#: Bytes read at a time when checking a file.
CHUNK_BYTES = 1 << 20
#: Smaller files are read when opened: systems limit a process to about 65,000 maps and 1,000 open files.
SMALL_BYTES = 1 << 17
#: Error numbers that mean a lack of memory or file descriptors, not a fault of the file.
_EXHAUSTED = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)


class FileJson(TypedDict):
    """A file in the manifest: its name, size and SHA-256."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class FileRecord:
    """A published file: its name in the index folder, its length in bytes, its SHA-256 in hexadecimal digits."""

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        # also keeps a forged manifest from reaching outside of its folder
        sized = type(self.size) is int and 0 <= self.size < 1 << 62
        if not isinstance(self.name, str) or not DATA_FILE.fullmatch(self.name) or not sized:
            raise ValueError(f"file record: expected a data file and its size, found {self.name!r}, {self.size!r}")
        if not isinstance(self.sha256, str) or not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"file record: expected 64 hexadecimal digits, found {self.sha256!r}")

    def to_json(self) -> dict[str, object]:
        """``{"name", "bytes", "sha256"}``."""
        return {"name": self.name, "bytes": self.size, "sha256": self.sha256}

    @staticmethod
    def from_json(data: FileJson) -> FileRecord:
        """A record from the output of :meth:`to_json`."""
        return FileRecord(data["name"], data["bytes"], data["sha256"])


class Folder:
    """An open folder, as a context manager: names are resolved in this folder even if its path is moved or replaced.

    Attributes:
        path: Its path when it was opened.
        descriptor: File descriptor of the folder.
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
        """Create a file for writing. Raises ``FileExistsError`` if the name exists, even as a dangling link."""
        opener = partial(os.open, mode=0o666, dir_fd=self.descriptor)
        return open(name, "xb", buffering=1 << 18, opener=opener)

    def unlink(self, name: str) -> None:
        """Remove a name, but not the target of a link; does nothing if the name does not exist."""
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self.descriptor)

    def replace(self, name: str, data: bytes) -> None:
        """Replace a file atomically: readers, and the disk after a power cut, have the old or the new content."""
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
    """A new file that hashes and counts the written bytes, and is synced to disk before its record exists."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._name = name
        self._hash = hashlib.sha256()
        self._size = 0
        self._file = folder.create(name)

    def write(self, data: Buffer) -> None:
        """Append bytes."""
        view = memoryview(data)
        if not view.nbytes:  # an empty view cannot be cast
            return
        view = view.cast("B")
        self._file.write(view)
        self._hash.update(view)
        self._size += len(view)

    def finish(self) -> FileRecord:
        """Sync to disk and close."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileRecord(self._name, self._size, self._hash.hexdigest())

    def abandon(self) -> None:
        """Close and ignore errors (the disk may be full)."""
        with suppress(OSError):
            self._file.close()


def write_file(folder: Folder, name: str, data: Buffer) -> FileRecord:
    """Write a whole new file."""
    file = NewFile(folder, name)
    try:
        file.write(data)
        return file.finish()
    finally:
        file.abandon()


def open_file(path: Path) -> FileIO:
    """Open a regular file for reading, unbuffered; pipes, devices and the like could block or never end.

    Raises:
        FileNotFoundError: The file is gone, perhaps because a newer state was published.
        DamagedIndexError: It is not a regular file, or cannot be read.
        IndexFolderError: This process has no permission to read it, or too many open files.
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
    """A published file that is read when first needed, or at once if it is small.

    It stays readable if it is deleted meanwhile. It is read rather than mapped, because accessing the map of a file
    that was truncated, as by copying over an index in use, kills the process.

    Args:
        folder: Folder of the index.
        record: Record of the file.
        hold: Whether a large file may be kept open until it is needed; otherwise it is read at once as well.

    Raises:
        FileNotFoundError: The file does not exist.
        DamagedIndexError: Its length is not that of the record, or it cannot be read.
    """

    def __init__(self, folder: Path, record: FileRecord, hold: bool = True) -> None:
        self._path = folder / record.name
        self._record = record
        self._lock = Lock()
        self._content: pa.Buffer | None = None
        self._checked = False
        self._file = open_file(self._path)
        # closes without the warning that a file object gives when it is dropped open
        self._close = weakref.finalize(self, self._file.close)
        _check_size(self._path, record, os.fstat(self._file.fileno()).st_size)
        if record.size < SMALL_BYTES or not hold:
            self._read()

    def content(self) -> pa.Buffer:
        """The whole content, after verifying its checksum, so that damaged bytes never reach a parser.

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


def _read_into(file: FileIO, view: memoryview, at: int) -> int:
    """Read from a position of a file; returns the number of bytes, 0 at its end or for an empty view."""
    if not len(view):
        return 0
    if hasattr(os, "preadv"):  # a forked child shares the position of an open file with its parent
        return os.preadv(file.fileno(), [view], at)
    file.seek(at)
    return file.readinto(view)


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a regular file of at most ``most`` bytes. Raises like :func:`open_file`, and if there are more."""
    with open_file(path) as file:
        try:
            data = file.read(most + 1)
        except OSError as error:
            raise unreadable(path, error) from error
    if len(data) > most:
        raise DamagedIndexError(f"{path}: expected at most {most} bytes, found more")
    return data


def map_file(folder: Path, record: FileRecord) -> Buffer:
    """A published file, memory-mapped unless it is small. It stays readable if it is deleted meanwhile.

    Arrow's mapping keeps no file descriptor open, so an index may have thousands of segments.

    Raises:
        FileNotFoundError: The file does not exist, perhaps because a newer state was published.
        DamagedIndexError: Its length is not that of the record, or it cannot be read.
        IndexFolderError: This process has too many memory maps.
    """
    path = folder / record.name
    with open_file(path) as file:  # refuses files that would block before Arrow opens the path
        found = os.fstat(file.fileno()).st_size
        _check_size(path, record, found)
        if record.size < SMALL_BYTES:
            return read_file(path, record.size)
    try:
        with pa.memory_map(str(path)) as mapped:
            _check_size(path, record, mapped.size())
            return memoryview(mapped.read_buffer())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DamagedIndexError | IndexFolderError:
    """The error for a file that cannot be opened or read; not every cause is damage."""
    reason = error.strerror or str(error)
    if error.errno in _EXHAUSTED or "Cannot allocate memory" in reason:
        hint = "this process has too many open files or maps; 'objemb compact' joins segments, each of which needs one"
        return IndexFolderError(f"{path}: cannot be opened: {reason}: {hint}")
    if error.errno in (errno.EACCES, errno.EPERM):
        return IndexFolderError(f"{path}: cannot be read: {reason}")
    return DamagedIndexError(f"{path}: cannot be read: {reason}")


def check_buffer(folder: Path, record: FileRecord, buffer: Buffer) -> None:
    """Raise ``DamagedIndexError`` unless a buffer has the recorded checksum."""
    digest = hashlib.sha256(buffer).hexdigest()
    if digest != record.sha256:
        raise DamagedIndexError(f"{folder / record.name}: expected SHA-256 {record.sha256}, found {digest}")


def check_file(folder: Path, record: FileRecord, on_bytes: Callable[[int], None] = lambda count: None) -> str | None:
    """Check a published file by reading all of it; returns the problem, or None. ``on_bytes`` gets numbers of bytes."""
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
    """Turn errors of the file system into ``IndexWriteError``."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise IndexWriteError(f"{folder}: cannot write the index: {reason}; the published state is intact") from error
