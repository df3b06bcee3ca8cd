"""Files that survive power cuts and tell when they were changed: sizes, checksums, atomic replacement."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from objemb.disk import sync_folder
from objemb.index.errors import DamagedIndexError, IndexWriteError

#: Names that data files of an index have: a number that is never used twice, and what is inside.
DATA_FILE = re.compile(r"\d{8,}\.(vectors|rows|images|deleted|ann)")
#: What an unfinished replacement of the manifest leaves behind.
TEMPORARY_SUFFIX = ".tmp"
#: Bytes that are read at once to be checked.
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class FileRecord:
    """A published file: its name in the index folder, its length in bytes, its SHA-256 in hexadecimal digits."""

    name: str
    size: int
    sha256: str

    def __post_init__(self) -> None:
        # also keeps a manifest that was tampered with from reaching outside of its folder
        if not DATA_FILE.fullmatch(self.name) or not isinstance(self.size, int) or self.size < 0:
            raise ValueError(f"file record: expected a data file and its size, found {self.name!r}, {self.size!r}")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256):
            raise ValueError(f"file record: expected 64 hexadecimal digits, found {self.sha256!r}")

    def to_json(self) -> dict[str, Any]:
        """``{"name", "bytes", "sha256"}``."""
        return {"name": self.name, "bytes": self.size, "sha256": self.sha256}

    @staticmethod
    def from_json(data: dict[str, Any]) -> FileRecord:
        """A record from what :meth:`to_json` made."""
        return FileRecord(data["name"], data["bytes"], data["sha256"])


class NewFile:
    """A new file that hashes and counts what is written, and reaches the disk before its record exists."""

    def __init__(self, folder: Path, name: str) -> None:
        self._name = name
        self._hash = hashlib.sha256()
        self._size = 0
        self._file = open(folder / name, "xb", buffering=1 << 20)  # noqa: SIM115 (closed by finish or abandon)

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


def write_file(folder: Path, name: str, data: Any) -> FileRecord:
    """Write a whole new file."""
    file = NewFile(folder, name)
    try:
        file.write(data)
        return file.finish()
    finally:
        file.abandon()


def seal_file(folder: Path, name: str) -> FileRecord:
    """The record of a file that another library wrote, after it has reached the disk."""
    with open(folder / name, "rb") as file:
        os.fsync(file.fileno())
        return FileRecord(name, os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file such that any reader, and the disk after a power cut, has the old contents or the new."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)  # the files that the new contents name must be found after a power cut
    os.rename(temporary, path)
    sync_folder(path.parent)


def map_file(folder: Path, record: FileRecord) -> pa.Buffer:
    """A published file, mapped into memory read-only; it stays readable when the file is deleted meanwhile.

    Arrow's mapping keeps no file descriptor open, so an index may have thousands of segments.

    Raises:
        FileNotFoundError: The file is gone, perhaps because a newer state was published.
        DamagedIndexError: It has another length than it should, or cannot be read.
    """
    path = folder / record.name
    try:
        with pa.memory_map(str(path)) as file:
            found = file.size()
            buffer = file.read_buffer() if found == record.size else None
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise DamagedIndexError(f"{path}: cannot be read: {error}") from error
    if buffer is None:
        raise DamagedIndexError(f"{path}: expected {record.size} bytes, found {found}")
    return buffer


def check_buffer(folder: Path, record: FileRecord, buffer: Any) -> None:
    """Raise ``DamagedIndexError`` unless a buffer has the recorded checksum: no parser ever sees damaged bytes."""
    found = hashlib.sha256(buffer).hexdigest()
    if found != record.sha256:
        raise DamagedIndexError(f"{folder / record.name}: expected SHA-256 {record.sha256}, found {found}")


def check_file(folder: Path, record: FileRecord, on_bytes: Callable[[int], None] = lambda count: None) -> str | None:
    """What is wrong with a published file (every byte is read, and told to ``on_bytes``), or None."""
    digest = hashlib.sha256()
    try:
        with open(folder / record.name, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size != record.size:
                return f"{record.name}: expected {record.size} bytes, found {size}"
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                on_bytes(len(chunk))
    except OSError as error:
        return f"{record.name}: cannot be read: {error.strerror or error}"
    found = digest.hexdigest()
    return None if found == record.sha256 else f"{record.name}: expected SHA-256 {record.sha256}, found {found}"


@contextmanager
def write_errors(folder: Path) -> Iterator[None]:
    """Turn failures of the file system into one clear error."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise IndexWriteError(f"{folder}: cannot write the index: {reason}; what was published is intact") from error
