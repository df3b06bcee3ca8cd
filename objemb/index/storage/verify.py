"""Verification of an index, by reading every byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from objemb.checks import IndexFolderError, ObjembError
from objemb.index.storage import tables
from objemb.index.storage.files import check_file
from objemb.index.storage.id_map import IdMap
from objemb.index.storage.manifest import Manifest, read_manifest
from objemb.index.storage.segment import Segment
from objemb.index.storage.snapshot import Snapshot


def verify(folder: str | Path, on_bytes: Callable[[int], None] = lambda count: None) -> list[str]:
    """The problems of an index; an empty list if there are none.

    Checks the length and checksum of every file, then the consistency of the tables: row counts, ascending image
    numbers, unique ids, boxes inside their images, and rows that are valid for their schema. Damage does not raise
    errors.

    Args:
        folder: The index.
        on_bytes: Called with numbers of bytes that were read; columns are read twice.

    Raises:
        IndexFolderError: There is no index at all.
    """
    folder = Path(folder)
    while True:
        try:
            manifest = read_manifest(folder)
        except IndexFolderError:
            raise
        except ObjembError as error:
            return [str(error)]
        problems = _verify_state(folder, manifest, on_bytes)
        if not problems or not _outdated(folder, manifest):
            return problems


def _outdated(folder: Path, manifest: Manifest) -> bool:
    """Whether a writer has published in the meantime, which explains missing files."""
    try:
        return read_manifest(folder) != manifest
    except ObjembError:
        return False


def _verify_state(folder: Path, manifest: Manifest, on_bytes: Callable[[int], None]) -> list[str]:
    problems = [p for f in manifest.files if (p := check_file(folder, f, on_bytes))]
    if problems:
        return problems  # tables are parsed, and rows counted, only where every byte is right
    try:
        snapshot = Snapshot(folder, manifest)
        for segment in snapshot.segments:
            problems += [f"{segment.record.name}: {p}" for p in _segment_problems(segment, on_bytes)]
        return problems or list(_relations(snapshot))
    except (ObjembError, FileNotFoundError) as error:
        return [*problems, str(error)]


def _segment_problems(segment: Segment, on_bytes: Callable[[int], None]) -> Iterator[str]:
    _ = segment.row_images, segment.label_names  # tables check themselves, and each other, when they are read
    for name in ("id", "stamp"):
        for text in segment.images.column(name).drop_null().to_pylist():
            tables.to_text(text)
    if b"" in segment.image_ids():
        yield "expected image ids, found an empty one"
    for metadata in segment.images.column("metadata").unique().to_pylist():
        tables.metadata_from_bytes(metadata)
    if not np.isfinite(segment.scores).all():
        yield "expected finite detector scores"
    yield from _box_problems(segment)
    yield from segment.schema.problems(segment.columns, on_bytes)


def _box_problems(segment: Segment) -> Iterator[str]:
    width, height = (segment.per_row(tables.numbers_of(segment.images, n)) for n in ("width", "height"))
    x1, y1, x2, y2 = segment.boxes.T
    right = (x1 >= 0) & (y1 >= 0) & (x1 <= x2) & (y1 <= y2) & (x2 <= width) & (y2 <= height)
    if not right.all():
        yield f"expected boxes inside of their images, found {int((~right).sum())} others"


def _relations(snapshot: Snapshot) -> Iterator[str]:
    """Problems between the files."""
    manifest = snapshot.manifest
    numbers = np.concatenate([np.zeros(0, np.int64), *(s.numbers for s in snapshot.segments)])
    if (np.diff(numbers) <= 0).any():
        yield "segments: expected ascending image numbers"
    if len(numbers) and (numbers[0] < 0 or numbers[-1] >= manifest.next_image):
        yield f"segments: expected image numbers below {manifest.next_image}, found {int(numbers.max())}"
    if (np.diff(snapshot.deleted) <= 0).any() or not np.isin(snapshot.deleted, numbers).all():
        yield "deleted images: expected ascending numbers of images that are in a segment"
    if count := IdMap.of(snapshot).duplicates():
        yield f"images: expected every id once, found {count} more than once"
