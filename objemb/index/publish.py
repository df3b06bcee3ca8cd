"""From one published state to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from objemb.checks import ObjembError, listed
from objemb.index.errors import IndexFolderError
from objemb.index.files import DATA_FILE, TEMPORARY_SUFFIX, FileRecord, write_errors, write_file
from objemb.index.lock import LOCK_FILE, WriterLock
from objemb.index.manifest import MANIFEST_FILE, Manifest, now, read_manifest, write_manifest
from objemb.index.snapshot import Snapshot


@contextmanager
def exclusive(folder: Path) -> Iterator[Snapshot]:
    """Hold the writer's lock, with the newest state.

    Files that no state needs (a killed writer's, or those of a failed attempt) are deleted before and after.
    """
    with WriterLock(folder):
        snapshot = Snapshot.load(folder)
        with write_errors(folder):
            clean(folder, snapshot.manifest)
        try:
            yield snapshot
        finally:
            # whatever happened, the manifest on disk says what is needed; a failure here is mended by the next writer
            with suppress(ObjembError, OSError):
                clean(folder, read_manifest(folder))


def create(folder: Path, manifest: Manifest) -> None:
    """Publish the first state, in a folder that is made for it or is empty.

    Raises:
        IndexFolderError: The folder holds an index or something else.
    """
    with write_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise IndexFolderError(f"{folder}: expected a new or empty folder, found a file")
        folder.mkdir(parents=True, exist_ok=True)
        _check_vacant(folder)  # before the lock, which is a file, too
        with WriterLock(folder):
            _check_vacant(folder)
            write_manifest(folder, manifest)


def clean(folder: Path, manifest: Manifest) -> None:
    """Delete data files that the manifest does not name, and nothing else."""
    needed = {f.name for f in manifest.files}
    for path in folder.iterdir():
        stale = DATA_FILE.fullmatch(path.name) and path.name not in needed
        if stale or path.name == MANIFEST_FILE + TEMPORARY_SUFFIX:
            path.unlink(missing_ok=True)


def publish(folder: Path, manifest: Manifest, **changes: Any) -> Manifest:
    """Make a new state the published one. Its files must be on disk. Needs the writer's lock."""
    newer = replace(manifest, generation=manifest.generation + 1, updated=now(), **changes)
    write_manifest(folder, newer)
    return newer


def write_deleted(folder: Path, next_file: int, numbers: np.ndarray) -> FileRecord | None:
    """Write the internal numbers of deleted images; None when there are none."""
    if not len(numbers):
        return None
    return write_file(folder, f"{next_file:08d}.deleted", np.unique(numbers).astype("<i8"))


def _check_vacant(folder: Path) -> None:
    """Only what a creation that was killed left behind may be there."""
    leftovers = {LOCK_FILE, MANIFEST_FILE + TEMPORARY_SUFFIX}
    found = sorted(p.name for p in folder.iterdir() if p.name not in leftovers)
    if MANIFEST_FILE in found:
        raise IndexFolderError(f"{folder}: expected a new or empty folder, found an index; open it instead")
    if found:
        raise IndexFolderError(f"{folder}: expected a new or empty folder, found {listed(found[:5])}")
