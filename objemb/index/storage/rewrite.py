"""Compacting an index, and merging several, in limited memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from objemb.checks import ArtefactMismatchError
from objemb.index.storage import tables
from objemb.index.storage.files import write_errors
from objemb.index.storage.joining import chunks
from objemb.index.storage.manifest import Manifest
from objemb.index.storage.publish import exclusive
from objemb.index.storage.segment import Segment
from objemb.index.storage.segment_writer import SegmentWriter
from objemb.index.storage.snapshot import Snapshot
from objemb.index.storage.writer import Writer
from objemb.types import BoolArray


def compact(folder: Path, like: Manifest, on_images: Callable[[int], None] = lambda count: None) -> bool:
    """Remove deleted images permanently and join small segments. Internal image numbers do not change.

    Args:
        folder: The index.
        like: A state of this index.
        on_images: Called with numbers of images that are done.

    Returns:
        Whether there was anything to do. If so, the search structures are dropped.
    """
    with exclusive(folder, like) as publisher, write_errors(folder):
        snapshot, manifest = publisher.snapshot, publisher.manifest
        if manifest.deleted is None and sum(not _large(manifest, s) for s in snapshot.segments) < 2:
            return False
        output = SegmentWriter(publisher.folder, manifest.next_file, manifest.schema, manifest.schema.most_rows)
        try:
            for segment, live in zip(snapshot.segments, snapshot.live, strict=True):
                if live is None and _large(manifest, segment):
                    output.close_segment()  # before the next, to keep the order of the image numbers
                    output.done.append(segment.record)
                    on_images(segment.record.images)
                else:
                    for columns, rows, images in chunks(segment, live):
                        output.append(columns, rows, images)
                        on_images(images.num_rows)
            output.close_segment()
        finally:
            output.abandon()
        publisher.publish(segments=tuple(output.done), deleted=None, structures=(), next_file=output.next_file)
    return True


def merge(
    writer: Writer,
    sources: Sequence[Snapshot],
    on_collision: str,
    on_images: Callable[[int], None] = lambda count: None,
) -> None:
    """Add all images of other indexes and publish them together.

    Args:
        writer: An open writer of the target.
        sources: States of other indexes, of the same kind.
        on_collision: "error", "replace" or "keep".
        on_images: Called with numbers of images that are done.

    Raises:
        ArtefactMismatchError: An index is of another model.
        ValueError: An id is there already and ``on_collision`` is "error". Nothing is published.
    """
    for source in sources:
        _check_mergeable(writer.manifest, source)
    for source in sources:
        for segment, live in zip(source.segments, source.live, strict=True):
            for columns, rows, images in chunks(segment, _wanted(writer, source, segment, live, on_collision)):
                writer.copy(columns, rows, images)
                on_images(images.num_rows)
    writer.commit()


def _large(manifest: Manifest, segment: Segment) -> bool:
    return 2 * manifest.weight(segment.record) >= manifest.schema.most_rows


def _check_mergeable(target: Manifest, source: Snapshot) -> None:
    for (name, expected), found in zip(target.kind.items(), source.manifest.kind.values(), strict=True):
        if expected != found:
            raise ArtefactMismatchError(f"{source.folder}: expected {name} {expected!r}, found {found!r}")


def _wanted(writer: Writer, source: Snapshot, segment: Segment, live: BoolArray | None, on_collision: str) -> BoolArray:
    """Which images of a segment to copy."""
    wanted = np.ones(segment.record.images, dtype=bool) if live is None else live.copy()
    if on_collision == "replace":
        return wanted
    ids = segment.image_ids()
    for position in np.flatnonzero(wanted).tolist():
        image = tables.to_text(ids[position])
        if image in writer:
            if on_collision == "error":
                raise ValueError(f"{source.folder}: expected image ids that are new, found {image!r} in both indexes")
            wanted[position] = False
    return wanted
