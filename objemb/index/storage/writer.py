"""Adding to and deleting from an index."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa

from objemb import checks
from objemb.checks import IndexWriteError
from objemb.index.storage import tables
from objemb.index.storage.files import write_errors
from objemb.index.storage.id_map import IdMap
from objemb.index.storage.joining import join_small
from objemb.index.storage.manifest import Manifest
from objemb.index.storage.publish import exclusive, write_deleted
from objemb.index.storage.schema import Columns
from objemb.index.storage.segment_writer import SegmentWriter
from objemb.structures import Described

#: A segment is closed when it has this weight: its regions and images together, unless the schema says otherwise.
FLUSH_ROWS = 65_536
#: Number of regions (or images) that are converted to tables at a time.
BATCH_ROWS = 1_024
#: Or this many bytes of their rows.
BATCH_BYTES = 1 << 20


class Writer:
    """A transaction on an index, as a context manager; created by ``Index.writer``.

    Changes become visible, all at once, at :meth:`commit` and at the end of the block. When the block ends with an
    exception, what was not committed is dropped. Memory is constant apart from the published tables of images and, for
    a large transaction, 24 bytes per image id. Not for use from several threads at a time.

    Raises:
        IndexLockedError: Another writer is active.
        IndexWriteError: Writing failed. Uncommitted changes are lost, and this writer cannot be used any more.
    """

    def __init__(self, folder: Path, like: Manifest, flush_rows: int, published: Callable[[], None]) -> None:
        self._folder = folder
        self._like = like
        self._flush_rows = checks.whole("flush_rows", flush_rows)
        self._published = published
        self._stack = ExitStack()
        self._usable = False

    def __enter__(self) -> Writer:
        with ExitStack() as stack:
            self._publisher = stack.enter_context(exclusive(self._folder, self._like))
            snapshot = self._publisher.snapshot
            self._numbers = IdMap.of(snapshot)
            self._deleted = snapshot.deleted.copy()
            self._newly_deleted: list[int] = []
            self._next_image = self.manifest.next_image
            self._pending: list[tables.Entry] = []
            self._pending_rows = self._pending_size = 0
            self._segments = self._new_segments()
            self._stack = stack.pop_all()
        self._usable = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            try:
                if kind is None:
                    self.commit()
            finally:
                self._usable = False
                self._segments.abandon()

    def add(self, described: Described, stamp: str | None = None) -> None:
        """Add an image with all its regions, or replace the image of the same id.

        Args:
            described: Boxes, detector scores, label names, vectors of unit length (or zero) or visual words, and
                metadata are stored; other extras of the regions are not. Zero regions are allowed: the image is known,
                and never found.
            stamp: A text that changes with the image (time and size of the file); see ``Index.images``.

        Raises:
            ArtefactMismatchError: The rows are of another kind or length than those of the index.
            ValueError: Something cannot be stored. The writer stays usable after either error.
        """
        self._check_usable()
        entry = tables.entry(self._next_image, described, stamp, self.manifest.schema)
        self._usable = False  # until the entry is complete
        self._numbers.put(entry.id, entry.number)
        self._pending.append(entry)
        self._pending_rows += len(entry.boxes)
        self._pending_size += sum(values.nbytes for values in entry.columns.values())
        self._next_image += 1
        most = min(BATCH_ROWS, self._flush_rows)
        if max(self._pending_rows, len(self._pending)) >= most or self._pending_size >= BATCH_BYTES:
            self._write_pending()
        self._usable = True

    def delete(self, images: Iterable[str]) -> list[str]:
        """Delete images by id, with all their regions. Returns the ids that are not in the index."""
        self._check_usable()
        unknown = []
        for image in dict.fromkeys(images):
            if not self._numbers.remove(tables.to_bytes(image)):
                unknown.append(image)
        return unknown

    def copy(self, columns: Columns, rows: pa.Table, images: pa.Table) -> None:
        """Add whole images from the tables of another index; their internal numbers are replaced.

        The images must be of the same model, and each at most once. Images of the same id are replaced.
        """
        self._check_usable()
        self._usable = False
        self._write_pending()
        numbers = self._next_image + np.arange(images.num_rows, dtype=np.int64)
        for image, number in zip(images["id"].to_pylist(), numbers.tolist(), strict=True):
            self._numbers.put(image, number)
        row_numbers = np.repeat(numbers, images["rows"].to_numpy())
        rows = rows.set_column(0, tables.ROWS.field("image"), pa.array(row_numbers))
        images = images.set_column(0, tables.IMAGES.field("image"), pa.array(numbers))
        with write_errors(self._folder):
            self._segments.append(columns, rows, images)
        self._next_image += images.num_rows
        self._usable = True

    def __contains__(self, image: str) -> bool:
        return self._numbers.get(tables.to_bytes(image)) is not None

    @property
    def manifest(self) -> Manifest:
        """The state that is published now."""
        return self._publisher.manifest

    def commit(self) -> None:
        """Publish all changes so far. Does nothing if there are none."""
        self._check_usable()
        self._newly_deleted += self._numbers.take_replaced()
        if self._next_image == self.manifest.next_image and not self._newly_deleted:
            return
        self._usable = False
        self._publisher.check()  # before writing what could not be published
        self._write_pending()
        with write_errors(self._folder):
            self._publish()
        self._segments = self._new_segments()
        self._newly_deleted = []
        self._usable = True
        self._published()

    def _publish(self) -> None:
        self._segments.close_segment()
        output = SegmentWriter(
            self._publisher.folder, self._segments.next_file, self.manifest.schema, max(self._flush_rows, FLUSH_ROWS)
        )
        segments = join_small(self._folder, self.manifest, output, self._segments.done)
        next_file, deleted = output.next_file, self.manifest.deleted
        if self._newly_deleted:
            self._deleted = np.union1d(self._deleted, np.array(self._newly_deleted, dtype=np.int64))
            deleted = write_deleted(self._publisher.folder, next_file, self._deleted)
            next_file += 1
        self._publisher.publish(
            segments=tuple(segments), deleted=deleted, next_image=self._next_image, next_file=next_file
        )

    def _write_pending(self) -> None:
        pending, self._pending = self._pending, []
        self._pending_rows = self._pending_size = 0
        if pending:
            with write_errors(self._folder):
                self._segments.append(
                    self.manifest.schema.joined([e.columns for e in pending]), *tables.tables(pending)
                )

    def _new_segments(self) -> SegmentWriter:
        return SegmentWriter(self._publisher.folder, self.manifest.next_file, self.manifest.schema, self._flush_rows)

    def _check_usable(self) -> None:
        if not self._usable:
            raise IndexWriteError(f"{self._folder}: expected an open writer, found one that has failed or is closed")
