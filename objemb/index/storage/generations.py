"""Generations of an index: the one that answers, the next one while it is being made, and the previous one.

::

    INDEX/            the generation that answers
    INDEX/next/       an index of another model, which a migration fills
    INDEX/previous/   the index as it was before the last migration, until it is dropped

All three are ordinary indexes. :func:`switch` puts the next one in the place of the one that answers: its files are
linked into the folder of the index under new numbers, and the manifest that names them is published in one step, as
every other state. A process that is killed before leaves the old generation, one that is killed after leaves the new
one; what else it leaves is removed by :func:`tidy`.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from objemb.checks import IndexFolderError, IndexWriteError, ObjembError
from objemb.index.generations import NEXT, PREVIOUS
from objemb.index.storage.files import CHUNK_BYTES, FileRecord, Folder, NewFile, open_file, write_errors
from objemb.index.storage.lock import WriterLock
from objemb.index.storage.manifest import MANIFEST_FILE, Manifest, read_manifest, write_manifest
from objemb.index.storage.publish import Publisher, exclusive
from objemb.index.storage.snapshot import Snapshot

#: Fields of a manifest that go on when the generation changes, or that publication sets.
_OF_THE_INDEX = ("created", "updated", "generation", "format")
#: Error numbers of file systems without hard links, or of too many links to a file.
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK, errno.ENOSYS)


def generation(index: Path, name: str, current: Manifest) -> Manifest | None:
    """The published state of another generation of an index; None if there is none.

    Args:
        index: The index.
        name: :data:`NEXT` or :data:`PREVIOUS`.
        current: The state that answers. What an interrupted migration has left is no other generation.

    Raises:
        IndexFolderError: A link or a file has its name.
        DamagedIndexError, ArtefactMismatchError: As for :func:`read_manifest`.
    """
    folder = index / name
    if not _is_folder(folder) or not (folder / MANIFEST_FILE).exists():
        return None
    found = read_manifest(folder)
    if name == NEXT:
        return None if found.fingerprint == current.fingerprint else found
    return None if _same(found, current) else found


def other_generations(index: Path) -> list[str]:
    """The names of the other generations that an index has; one that cannot be read counts, too."""
    try:
        current = read_manifest(index)
    except ObjembError:
        return []
    names = []
    for name in (NEXT, PREVIOUS):
        try:
            if generation(index, name, current) is not None:
                names.append(name)
        except ObjembError:
            names.append(name)
    return names


def generation_facts(index: Path, name: str, current: Manifest) -> dict[str, object] | None:
    """Counts, size and model of another generation, JSON-ready: ``{"problem": text}`` if it cannot be read, None if
    there is none."""
    try:
        if generation(index, name, current) is None:
            return None
        facts = Snapshot.load(index / name).facts()
    except ObjembError as error:
        return {"problem": str(error)} if name in other_generations(index) else None
    shown = ("images", "regions", "bytes", "fingerprint", "model", "updated")
    return {key: facts[key] for key in shown}


def switch(index: Path, like: Manifest, *, keep: bool) -> bool:
    """Publish the next generation in the place of the one that answers.

    Args:
        index: The index, with a next generation.
        like: The state of the index that the next generation was compared with.
        keep: Whether the old generation stays as :data:`PREVIOUS`; otherwise its files are deleted.

    Returns:
        Whether it was published; False if the index is in another state than ``like`` meanwhile.

    Raises:
        IndexLockedError: There is another writer of either.
        IndexFolderError: A previous generation is still kept.
    """
    with exclusive(index, like) as publisher:
        if publisher.manifest != like:
            return False
        made = read_manifest(index / NEXT)
        with exclusive(index / NEXT, made) as source, write_errors(index):
            if keep:
                _set_aside(publisher)
            _take_over(publisher, source)
        _remove(index / NEXT)
    return True


def drop(index: Path, name: str) -> bool:
    """Delete another generation, even if it is damaged. Returns whether there was one.

    Raises:
        IndexLockedError: A migration is filling the next generation, or there is another writer of the index.
        IndexFolderError: A link or a file has its name.
    """
    with exclusive(index, read_manifest(index)):
        found = (index / name / MANIFEST_FILE).exists()
        _remove(index / name)
        return found


def tidy(index: Path) -> None:
    """Delete what an interrupted migration has left: a next generation that was published, a previous one that is the
    one which answers, and folders without a manifest."""
    if not _leftovers(index, read_manifest(index)):  # without the lock, which another writer may hold
        return
    with exclusive(index, read_manifest(index)) as publisher:
        for name in _leftovers(index, publisher.manifest):
            _remove(index / name)


def _leftovers(index: Path, current: Manifest) -> list[str]:
    return [n for n in (NEXT, PREVIOUS) if _is_folder(index / n) and generation(index, n, current) is None]


def _set_aside(publisher: Publisher) -> None:
    """Make the generation that answers an index of its own as well, at :data:`PREVIOUS`."""
    folder, manifest = publisher.folder.path / PREVIOUS, publisher.manifest
    if _is_folder(folder):
        if generation(publisher.folder.path, PREVIOUS, manifest) is not None:
            raise IndexFolderError(f"{folder}: expected no generation that is still kept, found one")
        _remove(folder)
    folder.mkdir()
    with Folder(folder) as target:
        for record in manifest.files:
            _link(publisher.folder, record, target, record.name)
        write_manifest(target, manifest)
    os.fsync(publisher.folder.descriptor)


def _take_over(publisher: Publisher, source: Publisher) -> None:
    """Publish the state of another index, with its files under new numbers."""
    first, made = publisher.manifest.next_file, source.manifest
    renamed = {record.name: replace(record, name=_renumbered(record.name, first)) for record in made.files}
    for record in made.files:
        publisher.folder.unlink(renamed[record.name].name)
        _link(source.folder, record, publisher.folder, renamed[record.name].name)

    def of(files: Mapping[str, FileRecord]) -> dict[str, FileRecord]:
        return {content: renamed[file.name] for content, file in files.items()}

    # all that belongs to the new model and its rows, but not what belongs to the index
    own = {f.name: getattr(made, f.name) for f in fields(made) if f.name not in _OF_THE_INDEX}
    own |= {
        "next_file": first + made.next_file,
        "segments": tuple(replace(segment, files=of(segment.files)) for segment in made.segments),
        "deleted": None if made.deleted is None else renamed[made.deleted.name],
        "structures": tuple(replace(structure, files=of(structure.files)) for structure in made.structures),
    }
    publisher.publish(**own)


def _renumbered(name: str, first: int) -> str:
    number, _, content = name.partition(".")
    return f"{first + int(number):08d}.{content}"


def _link(source: Folder, record: FileRecord, target: Folder, name: str) -> None:
    """A second name for a data file, or a copy where the file system has no hard links."""
    try:
        os.link(record.name, name, src_dir_fd=source.descriptor, dst_dir_fd=target.descriptor)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        _copy(source, record, target, name)


def _copy(source: Folder, record: FileRecord, target: Folder, name: str) -> None:
    copy = NewFile(target, name)
    try:
        with open_file(source.path / record.name) as file:
            while chunk := file.read(CHUNK_BYTES):
                copy.write(chunk)
        if copy.finish() != replace(record, name=name):
            raise IndexWriteError(f"{source.path / record.name}: expected the published file, found another one")
    finally:
        copy.abandon()


def _remove(folder: Path) -> None:
    """Delete a generation, its manifest first: whatever is left after that is no index."""
    if not _is_folder(folder):
        return
    with write_errors(folder):
        with WriterLock(folder) as lock:
            lock.folder.unlink(MANIFEST_FILE)
            os.fsync(lock.folder.descriptor)
        shutil.rmtree(folder)


def _is_folder(folder: Path) -> bool:
    """Whether there is a folder, and no link to one, which could be any folder of the user.

    Raises:
        IndexFolderError: Something else has its name.
    """
    try:
        mode = folder.lstat().st_mode
    except OSError:
        return False
    if not stat.S_ISDIR(mode):
        raise IndexFolderError(f"{folder}: expected a folder, found {'a link' if stat.S_ISLNK(mode) else 'a file'}")
    return True


def _same(one: Manifest, other: Manifest) -> bool:
    return (one.fingerprint, one.generation, one.files) == (other.fingerprint, other.generation, other.files)
