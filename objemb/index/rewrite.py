"""Reading segments again to write them anew: compacting one index, merging several. Memory is bounded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from objemb import checks
from objemb.checks import ArtefactMismatchError
from objemb.index import tables
from objemb.index.files import write_errors
from objemb.index.manifest import Manifest
from objemb.index.publish import exclusive, publish
from objemb.index.segment import Segment
from objemb.index.sink import SegmentSink
from objemb.index.snapshot import Snapshot
from objemb.index.writer import Writer

#: Compacted segments are closed when their regions and images together reach this; half as many count as large.
COMPACT_ROWS = 1_048_576
#: Rows that are copied at a time.
CHUNK_ROWS = 8_192

#: What to do with an image whose id is in the index already.
COLLISIONS = ("error", "replace", "keep")


def compact(folder: Path, on_images: Callable[[int], None] = lambda count: None) -> bool:
    """Drop deleted images for good and join small segments. Internal image numbers stay.

    Args:
        folder: The index.
        on_images: Called with numbers of images that are done.

    Returns:
        Whether there was anything to do. If so, the approximate search structure is dropped.
    """
    with exclusive(folder) as snapshot, write_errors(folder):
        manifest = snapshot.manifest
        if manifest.deleted is None and sum(not _large(s) for s in snapshot.segments) < 2:
            return False
        sink = SegmentSink(folder, manifest.next_file, manifest.dtype, COMPACT_ROWS)
        try:
            for segment, live in zip(snapshot.segments, snapshot.live, strict=True):
                if live is None and _large(segment):
                    sink.close_segment()  # before the next, to keep the order of the image numbers
                    sink.done.append(segment.record)
                    on_images(segment.record.images)
                else:
                    for vectors, rows, images in chunks(segment, live):
                        sink.append(vectors, rows, images)
                        on_images(images.num_rows)
            sink.close_segment()
        finally:
            sink.abandon()
        publish(folder, manifest, segments=tuple(sink.done), deleted=None, ann=None, next_file=sink.next_file)
    return True


def merge(
    writer: Writer,
    target: Manifest,
    sources: Sequence[Snapshot],
    on_collision: str,
    on_images: Callable[[int], None] = lambda count: None,
) -> None:
    """Add all images of other indexes and publish them together.

    Args:
        writer: An open writer of the target.
        target: The target's manifest.
        sources: States of other indexes, of the same dimension and fingerprint.
        on_collision: One of :data:`COLLISIONS`.
        on_images: Called with numbers of images that are done.

    Raises:
        ArtefactMismatchError: An index is of another model.
        ValueError: An id is there already and ``on_collision`` is "error". Nothing is published.
    """
    checks.one_of("on_collision", on_collision, COLLISIONS)
    for source in sources:
        _check_mergeable(target, source)
    for source in sources:
        for segment, live in zip(source.segments, source.live, strict=True):
            for vectors, rows, images in chunks(segment, _wanted(writer, source, segment, live, on_collision)):
                writer.copy(vectors, rows, images)
                on_images(images.num_rows)
    writer.commit()


def chunks(segment: Segment, keep: np.ndarray | None) -> Iterator[tuple[np.ndarray, pa.Table, pa.Table]]:
    """The images for which ``keep`` (bool ``(images,)``, None for all) is true, some thousand regions at a time."""
    segment.check_vectors()  # else damage would get a new, right checksum
    weights = segment.starts + np.arange(len(segment.starts))  # an image without regions counts as well
    begin = 0
    while begin < segment.record.images:
        end = max(begin + 1, int(np.searchsorted(weights, weights[begin] + CHUNK_ROWS, side="right")) - 1)
        kept = np.ones(end - begin, dtype=bool) if keep is None else keep[begin:end]
        if kept.any():
            first, last = int(segment.starts[begin]), int(segment.starts[end])
            kept_rows = np.repeat(kept, segment.counts[begin:end])
            rows, images = segment.rows.slice(first, last - first), segment.images.slice(begin, end - begin)
            yield (
                segment.vectors[first:last][kept_rows],
                pa.Table.from_batches([rows]).filter(pa.array(kept_rows)),
                pa.Table.from_batches([images]).filter(pa.array(kept)),
            )
        begin = end


def _large(segment: Segment) -> bool:
    return 2 * (segment.record.rows + segment.record.images) >= COMPACT_ROWS


def _check_mergeable(target: Manifest, source: Snapshot) -> None:
    for name in ("fingerprint", "dim"):
        expected, found = getattr(target, name), getattr(source.manifest, name)
        if expected != found:
            raise ArtefactMismatchError(f"{source.folder}: expected {name} {expected!r}, found {found!r}")


def _wanted(
    writer: Writer, source: Snapshot, segment: Segment, live: np.ndarray | None, on_collision: str
) -> np.ndarray:
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
