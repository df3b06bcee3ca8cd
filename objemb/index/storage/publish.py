"""From one published state to the next."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from objemb.checks import ArtefactMismatchError, IndexFolderError, IndexWriteError, ObjembError, listed
from objemb.index.storage.files import DATA_FILE, TEMPORARY_SUFFIX, FileRecord, Folder, write_errors, write_file
from objemb.index.storage.lock import LOCK_FILE, WriterLock, check_system
from objemb.index.storage.manifest import FORMAT, MANIFEST_FILE, SCHEMAS, Manifest, now, read_manifest, write_manifest
from objemb.index.storage.snapshot import Snapshot
from objemb.types import Int64Array


class Publisher:
    """Publishes new states while the lock of an index is held; created by :func:`exclusive`.

    Attributes:
        folder: The locked folder, in which new files are created.
        snapshot: The state that was published when the lock was acquired.
        manifest: The state that is published now.
    """

    def __init__(self, lock: WriterLock, snapshot: Snapshot) -> None:
        self._lock = lock
        self.folder: Folder = lock.folder
        self.snapshot = snapshot
        self.manifest = snapshot.manifest

    def publish(self, **changes: Any) -> None:
        """Publish a new state. Its files must be on disk.

        Raises:
            IndexWriteError: The folder, its lock or its published state is not the one that was opened.
        """
        self.check()
        newer = replace(self.manifest, format=FORMAT, generation=self.manifest.generation + 1, updated=now(), **changes)
        write_manifest(self.folder, newer)
        self.manifest = newer

    def check(self) -> None:
        """Raise ``IndexWriteError`` if another writer has published, or if the folder was replaced."""
        self._lock.check()
        path = self.folder.path
        if read_manifest(path) != self.manifest:
            raise IndexWriteError(f"{path}: expected the state that this writer opened, found one of another writer")


@contextmanager
def exclusive(path: Path, like: Manifest) -> Iterator[Publisher]:
    """Hold the writer's lock, with the newest state.

    Files that are not part of a state (left by a killed writer or a failed attempt) are deleted before and after.

    Args:
        path: Folder of the index.
        like: A state of this index, to detect that the folder was replaced by another index.

    Raises:
        ArtefactMismatchError: The folder now contains an index of another model.
    """
    with WriterLock(path) as lock:
        snapshot = Snapshot.load(path)
        check_same_model(path, like, snapshot.manifest)
        publisher = Publisher(lock, snapshot)
        with write_errors(path):
            publisher.check()
            clean(lock.folder, snapshot.manifest)
        try:
            yield publisher
        finally:
            # in any case, the manifest on disk lists the files that are needed; the next writer cleans up if this fails
            with suppress(ObjembError, OSError):
                lock.check()
                clean(lock.folder, read_manifest(path))


def create(path: Path, manifest: Manifest) -> None:
    """Publish the first state in a new or empty folder.

    Raises:
        IndexFolderError: The folder contains an index or something else.
    """
    check_system()
    with write_errors(path):
        if path.exists() and not path.is_dir():
            raise IndexFolderError(f"{path}: expected a new or empty folder, found a file")
        path.mkdir(parents=True, exist_ok=True)
        _check_vacant(path)  # before the lock, which is a file, too
        with WriterLock(path) as lock:
            _check_vacant(path)
            lock.check()
            write_manifest(lock.folder, manifest)


def check_same_model(path: Path, expected: Manifest, found: Manifest) -> None:
    """Raise ``ArtefactMismatchError`` if the index was replaced by another one."""
    for (name, before), after in zip(expected.kind.items(), found.kind.values(), strict=True):
        if before != after:
            raise ArtefactMismatchError(
                f"{path}: expected an index of {name} {before!r}, as it was opened, found {after!r}: "
                "it was replaced by another index; open it again"
            )


def clean(folder: Folder, manifest: Manifest) -> None:
    """Delete data files that the manifest does not name, and nothing else."""
    needed = {f.name for f in manifest.files}
    contents = {"rows", "images", "deleted", "ann", *(c for s in SCHEMAS.values() for c in s.columns)}
    for name in os.listdir(folder.descriptor):
        # only names of data files, so that a user's 20260101.jpg is kept
        ours = DATA_FILE.fullmatch(name) and name.partition(".")[2] in contents
        if (ours and name not in needed) or name == MANIFEST_FILE + TEMPORARY_SUFFIX:
            folder.unlink(name)


def write_deleted(folder: Folder, next_file: int, numbers: Int64Array) -> FileRecord | None:
    """Write the internal numbers of deleted images; None if there are none."""
    if not len(numbers):
        return None
    return write_file(folder, f"{next_file:08d}.deleted", np.unique(numbers).astype("<i8").data)


def _check_vacant(path: Path) -> None:
    """Check that the folder contains at most the leftovers of an interrupted creation."""
    leftovers = {LOCK_FILE, MANIFEST_FILE + TEMPORARY_SUFFIX}
    others = sorted(p.name for p in path.iterdir() if p.name not in leftovers)
    if MANIFEST_FILE in others:
        raise IndexFolderError(f"{path}: expected a new or empty folder, found an index; open it instead")
    if others:
        raise IndexFolderError(f"{path}: expected a new or empty folder, found {listed(others[:5])}")
