"""The approximate search structure of an index: built, published and loaded like any other file of it."""

from __future__ import annotations

from pathlib import Path

from objemb import checks
from objemb.index.errors import IndexFolderError, IndexWriteError
from objemb.index.files import check_buffer, seal_file, write_errors
from objemb.index.ivf import KINDS, IvfIndex, build_ivf
from objemb.index.manifest import AnnRecord
from objemb.index.publish import exclusive, publish
from objemb.index.snapshot import Snapshot


def build_ann(folder: Path, kind: str) -> None:
    """Build a structure over all rows that are published now, and publish it; it replaces an earlier one.

    Raises:
        ImportError: FAISS is not installed.
        ValueError: There are too few rows, or the kind is unknown.
    """
    checks.one_of("kind", kind, tuple(KINDS))
    with exclusive(folder) as snapshot, write_errors(folder):
        manifest = snapshot.manifest
        name = f"{manifest.next_file:08d}.ann"
        try:
            build_ivf(snapshot.blocks, folder / name, kind=kind)
        except RuntimeError as error:  # how FAISS says that it could not write
            raise IndexWriteError(f"{folder}: cannot build {kind}: {error}; what was published is intact") from error
        record = AnnRecord(kind, len(snapshot.segments), seal_file(folder, name))
        publish(folder, manifest, ann=record, next_file=manifest.next_file + 1)


def load_ann(snapshot: Snapshot) -> IvfIndex:
    """The structure of a state that has one.

    Raises:
        ImportError: FAISS is not installed.
        DamagedIndexError: The file was changed.
        IndexFolderError: The state is an old one, and its structure was deleted since it was opened.
    """
    record = snapshot.manifest.ann
    if record is None or snapshot.ann_buffer is None:
        raise ValueError(f"{snapshot.folder}: expected an approximate search structure, found none")
    check_buffer(snapshot.folder, record.file, snapshot.ann_buffer)  # FAISS trusts what it reads
    path = snapshot.folder / record.file.name
    if not path.exists():
        raise IndexFolderError(f"{path}: deleted by a later state of the index; refresh() shows that state")
    return IvfIndex.load(path)
