"""Writing segments."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from objemb.index.storage import tables
from objemb.index.storage.files import Folder, NewFile, write_file
from objemb.index.storage.ipc import to_ipc
from objemb.index.storage.manifest import SegmentRecord


class SegmentWriter:
    """Writes rows to segments and begins a new one when the last is full.

    Vectors go to the disk at once; of the tables one segment is held in memory.

    Args:
        folder: Folder of the index, locked for writing.
        next_file: The first file number that may be used.
        dtype: Number type of the vectors on disk.
        max_rows: A segment is full when its regions and images together reach this.

    Attributes:
        next_file: The first file number that is still free.
        done: Records of the segments that are complete and on disk.
    """

    def __init__(self, folder: Folder, next_file: int, dtype: str, max_rows: int) -> None:
        self._folder = folder
        self._dtype = np.dtype(dtype).newbyteorder("<")
        self._max_rows = max_rows
        self._vectors: NewFile | None = None
        self._rows: list[pa.Table] = []
        self._images: list[pa.Table] = []
        self._weight = 0
        self.next_file = next_file
        self.done: list[SegmentRecord] = []

    def append(self, vectors: np.ndarray, rows: pa.Table, images: pa.Table) -> None:
        """Add whole images: ``(n, dim)`` vectors, n rows of :data:`tables.ROWS`, rows of :data:`tables.IMAGES`."""
        if self._vectors is None:
            self._vectors = NewFile(self._folder, f"{self.next_file:08d}.vectors")
        self._vectors.write(np.ascontiguousarray(vectors, dtype=self._dtype))
        self._rows.append(rows)
        self._images.append(images)
        self._weight += rows.num_rows + images.num_rows
        if self._weight >= self._max_rows:
            self.close_segment()

    def close_segment(self) -> None:
        """Complete the segment that was begun, if any."""
        if self._vectors is None:
            return
        number = f"{self.next_file:08d}"
        record = SegmentRecord(
            rows=sum(t.num_rows for t in self._rows),
            images=sum(t.num_rows for t in self._images),
            vectors_file=self._vectors.finish(),
            rows_file=write_file(self._folder, f"{number}.rows", to_ipc(self._rows, tables.ROWS)),
            images_file=write_file(self._folder, f"{number}.images", to_ipc(self._images, tables.IMAGES)),
        )
        self.done.append(record)
        self._vectors, self._rows, self._images, self._weight = None, [], [], 0
        self.next_file += 1

    def abandon(self) -> None:
        """Close the file that is open; the files are left to the next cleaning, their numbers are not used again."""
        if self._vectors is not None:
            self._vectors.abandon()
            self.next_file += 1
