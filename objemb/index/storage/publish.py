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
    """The right to publish, for as long as the lock of an index is held; made by :func:`exclusive`.

    Attributes:
        folder: The locked folder, where new files are made.
        snapshot: The state that was published when the lock was taken.
        manifest: The state that is published now.
    """

    def __init__(self, lock: WriterLock, snapshot: Snapshot) -> None:
        self._lock = lock
        self.folder: Folder = lock.folder
        self.snapshot = snapshot
        self.manifest = snapshot.manifest

    def publish(self, **changes: Any) -> None:
        """Make a new state the published one. Its files must be on disk.

        Raises:
            IndexWriteError: The folder, its lock or what is published in it is no longer what was opened.
        """
        self.check()
        newer = replace(self.manifest, format=FORMAT, generation=self.manifest.generation + 1, updated=now(), **changes)
        write_manifest(self.folder, newer)
        self.manifest = newer

    def check(self) -> None:
        """Raise ``IndexWriteError`` unless nobody else has written or put another folder in this one's place."""
        self._lock.check()
        path = self.folder.path
        if read_manifest(path) != self.manifest:
            raise IndexWriteError(f"{path}: expected the state that this writer opened, found one of another writer")


@contextmanager
def exclusive(path: Path, like: Manifest) -> Iterator[Publisher]:
    """Hold the writer's lock, with the newest state.

    Files that no state needs (a killed writer's, or those of a failed attempt) are deleted before and after.

    Args:
        path: Folder of the index.
        like: A state of this index; meanwhile another one may have been put in its place.

    Raises:
        ArtefactMismatchError: The index that is there now is of another model.
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
            # whatever happened, the manifest on disk says what is needed; the next writer cleans up what fails here
            with suppress(ObjembError, OSError):
                lock.check()
                clean(lock.folder, read_manifest(path))


def create(path: Path, manifest: Manifest) -> None:
    """Publish the first state, in a folder that is made for it or is empty.

    Raises:
        IndexFolderError: The folder holds an index or something else.
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
    """Raise ``ArtefactMismatchError`` where another index has taken the place of one."""
    for (name, before), after in zip(expected.kind.items(), found.kind.values(), strict=True):
        if before != after:
            raise ArtefactMismatchError(
                f"{path}: expected an index of {name} {before!r}, as it was opened, found {after!r}: "
                "another index was put in its place; open it anew"
            )


def clean(folder: Folder, manifest: Manifest) -> None:
    """Delete data files that the manifest does not name, and nothing else."""
    needed = {f.name for f in manifest.files}
    contents = {"rows", "images", "deleted", "ann", *(c for s in SCHEMAS.values() for c in s.columns)}
    for name in os.listdir(folder.descriptor):
        # not every name that a data file may have: somebody's 20260101.jpg stays
        ours = DATA_FILE.fullmatch(name) and name.partition(".")[2] in contents
        if (ours and name not in needed) or name == MANIFEST_FILE + TEMPORARY_SUFFIX:
            folder.unlink(name)


def write_deleted(folder: Folder, next_file: int, numbers: Int64Array) -> FileRecord | None:
    """Write the internal numbers of deleted images; None when there are none."""
    if not len(numbers):
        return None
    return write_file(folder, f"{next_file:08d}.deleted", np.unique(numbers).astype("<i8").data)


def _check_vacant(path: Path) -> None:
    """Only what a creation that was killed left behind may be there."""
    leftovers = {LOCK_FILE, MANIFEST_FILE + TEMPORARY_SUFFIX}
    others = sorted(p.name for p in path.iterdir() if p.name not in leftovers)
    if MANIFEST_FILE in others:
        raise IndexFolderError(f"{path}: expected a new or empty folder, found an index; open it instead")
    if others:
        raise IndexFolderError(f"{path}: expected a new or empty folder, found {listed(others[:5])}")
