"""Files and folders that are written atomically, with the rights that the umask gives, and the hash of a file."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

#: Names of what is not complete yet: a number that nothing else has before the end of its name.
_BESIDE = re.compile(r"\.[0-9a-f]{12}\..*", re.DOTALL)


def beside(place: Path) -> Path:
    """A hidden name in the folder of ``place`` that nothing has: what is complete there can be renamed into place."""
    return place.with_name(f".{uuid.uuid4().hex[:12]}.{place.name[-40:]}")


def left_beside(place: Path) -> list[Path]:
    """What was written beside ``place`` and never got there, because a program was killed."""
    names = place.parent.iterdir() if place.parent.is_dir() else iter(())
    return sorted(p for p in names if _BESIDE.fullmatch(p.name) and p.name[14:] == place.name[-40:])


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """The path of a file to write; it takes the place of ``file``, on the disk, when the block ends without an error.

    A reader finds the old file or the new one, and so does whoever comes after a full disk, a kill or a power cut. The
    file has the rights that the umask gives. A link is followed; what is no regular file, such as ``/dev/stdout``, is
    written to directly.

    Args:
        file: What is written; its folder must exist.

    Raises:
        OSError: Of the file system, with the name of the file.
    """
    if file.exists() and not file.is_file():
        with naming(file):
            yield file
        return
    place = Path(os.path.realpath(file))
    partial = beside(place)
    try:
        with naming(file, partial):
            yield partial
            _sync_file(partial)
            os.replace(partial, place)
            sync_folder(place.parent)
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def write_whole(file: Path, content: str | bytes) -> None:
    r"""Write a file as :func:`replacing` does; a text in UTF-8, lone surrogates as ``\udcff``."""
    with replacing(file) as partial:
        partial.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


@contextlib.contextmanager
def naming(file: Path, partial: Path | None = None) -> Iterator[None]:
    """Give the name of a file to errors of the system that have none, as those of a full disk, or ``partial``'s."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error


@contextlib.contextmanager
def replacing_folder(folder: Path, *, keep: bool = False) -> Iterator[Path]:
    """An empty folder to fill; it takes the place of ``folder``, on the disk, when the block ends without an error.

    All of its files then have the rights that the umask gives to files, whoever wrote them. A folder that was there is
    removed after the new one has its place; where that fails, it is put back.

    Args:
        folder: What is written; its parent must be there.
        keep: Whether a folder that is there by then stays, and the new one is thrown away.

    Raises:
        OSError: Of the file system. Where not even the old folder could be put back, the message says where both lie.
    """
    place = Path(os.path.realpath(folder))
    partial = beside(place)
    partial.mkdir()
    try:
        yield partial
        rights = partial.stat().st_mode & 0o666
        for file in partial.iterdir():
            file.chmod(rights)
            _sync_file(file)
        sync_folder(partial)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    _swap(partial, place, keep=keep)
    sync_folder(place.parent)


def file_sha256(file: Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits. Raises ``OSError`` where it cannot be read."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Force names that were added to, renamed in or removed from a folder to the disk; Windows does so by itself."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(partial: Path, place: Path, *, keep: bool) -> None:
    """Put a folder in the place of what is there, or leave what is there where it was."""
    old = None if keep or not os.path.lexists(place) else beside(place)
    try:
        if old is not None:
            os.rename(place, old)
        os.rename(partial, place)
    except BaseException as error:
        if old is not None and old.exists() and not place.exists():
            try:
                os.rename(old, place)
            except OSError:
                raise OSError(
                    f"{place}: the folder could not be replaced ({error}); the new one is {partial}, "
                    f"the old one is {old}: rename one of them to {place.name}"
                ) from error
        shutil.rmtree(partial, ignore_errors=True)
        if not (keep and isinstance(error, OSError) and place.is_dir()):
            raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)


def _sync_file(file: Path) -> None:
    with file.open("rb+") as stream:  # Windows syncs what may be written to
        os.fsync(stream.fileno())
