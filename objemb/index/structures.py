"""The approximate search structure of an index: built, published and loaded like any other file of it."""

from __future__ import annotations

from pathlib import Path

from objemb import checks
from objemb.index.engines._ivf import KINDS, IvfIndex, build_ivf
from objemb.index.storage.files import NewFile, check_buffer, write_errors
from objemb.index.storage.manifest import AnnRecord, Manifest
from objemb.index.storage.publish import exclusive
from objemb.index.storage.snapshot import Snapshot


def build_ann(folder: Path, like: Manifest, kind: str) -> None:
    """Build a structure over all rows that are published now, and publish it; it replaces an earlier one.

    Args:
        folder: The index.
        like: A state of this index.
        kind: One of :data:`objemb.index.engines._ivf.KINDS`.

    Raises:
        ImportError: FAISS is not installed.
        ValueError: There are too few rows, or the kind is unknown.
    """
    checks.one_of("kind", kind, tuple(KINDS))
    with exclusive(folder, like) as publisher, write_errors(folder):
        snapshot, next_file = publisher.snapshot, publisher.manifest.next_file
        for segment in snapshot.segments:
            segment.check_vectors()  # a damaged one may be put back, the structure would stay as it is
        built = build_ivf(snapshot.blocks, kind=kind)
        file = NewFile(publisher.folder, f"{next_file:08d}.ann")
        try:
            built.write(file.write)
            record = AnnRecord(kind, len(snapshot.segments), file.finish())
        finally:
            file.abandon()
        publisher.publish(ann=record, next_file=next_file + 1)


def load_ann(snapshot: Snapshot) -> IvfIndex:
    """The structure of a state that has one.

    Raises:
        ImportError: FAISS is not installed.
        DamagedIndexError: The file was changed.
    """
    record = snapshot.manifest.ann
    if record is None or snapshot.ann_buffer is None:
        raise ValueError(f"{snapshot.folder}: expected an approximate search structure, found none")
    check_buffer(snapshot.folder, record.file, snapshot.ann_buffer)  # FAISS trusts what it reads
    return IvfIndex.read(str(snapshot.folder / record.file.name), snapshot.ann_buffer)
