"""Atomic writing of files and folders, with permissions according to the umask, and hashes of files."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

#: Names of incomplete files: a random number followed by the end of the final name.
_BESIDE = re.compile(r"\.[0-9a-f]{12}\..*", re.DOTALL)


def beside(place: Path) -> Path:
    """An unused hidden name in the folder of ``place``, for a file that is renamed to ``place`` when it is complete."""
    return place.with_name(f".{uuid.uuid4().hex[:12]}.{place.name[-40:]}")


def left_beside(place: Path) -> list[Path]:
    """Incomplete files for ``place`` that killed programs left behind."""
    names = place.parent.iterdir() if place.parent.is_dir() else iter(())
    return sorted(p for p in names if _BESIDE.fullmatch(p.name) and p.name[14:] == place.name[-40:])


@contextlib.contextmanager
def replacing(file: Path) -> Iterator[Path]:
    """A temporary path to write to; it replaces ``file``, synced to disk, if the block ends without an error.

    Readers have either the old or the new file, also after a full disk, a kill or a power cut. The permissions are
    those of the umask. Links are followed; anything but a regular file, such as ``/dev/stdout``, is written directly.

    Args:
        file: The file to write; its folder must exist.

    Raises:
        OSError: An error of the file system, with the name of the file.
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
    r"""Write a whole file with :func:`replacing`; text is UTF-8, with lone surrogates as ``\udcff``."""
    with replacing(file) as partial:
        partial.write_bytes(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


@contextlib.contextmanager
def naming(file: Path, partial: Path | None = None) -> Iterator[None]:
    """Add the name of a file to system errors that have no name, such as of a full disk, or that of ``partial``."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(partial)):
            raise
        raise OSError(error.errno, error.strerror, str(file)) from error


@contextlib.contextmanager
def replacing_folder(folder: Path, *, keep: bool = False) -> Iterator[Path]:
    """An empty temporary folder to fill; it replaces ``folder``, synced to disk, if the block ends without an error.

    All of its files get permissions according to the umask. An existing folder is removed once the new one is in place;
    if that fails, it is restored.

    Args:
        folder: The folder to write; its parent must exist.
        keep: Whether to keep a folder that exists at the end of the block, and to discard the new one.

    Raises:
        OSError: An error of the file system. If the old folder could not be restored, the message has both paths.
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
    """SHA-256 of a file's content, 64 hexadecimal digits. Raises ``OSError`` if it cannot be read."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Sync the names in a folder to disk (additions, renames, removals); not needed on Windows."""
    if os.name == "nt":  # folders cannot be opened there
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap(partial: Path, place: Path, *, keep: bool) -> None:
    """Replace a folder by another; after an error the old one is in place."""
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
    with file.open("rb+") as stream:  # Windows syncs only files opened for writing
        os.fsync(stream.fileno())
