"""Writing segments."""

from __future__ import annotations

import pyarrow as pa

from objemb.index.storage import tables
from objemb.index.storage.files import Folder, NewFile, write_file
from objemb.index.storage.ipc import to_ipc
from objemb.index.storage.manifest import SegmentRecord
from objemb.index.storage.schema import Columns, RowSchema


class SegmentWriter:
    """Writes rows to segments, and starts a new one when the last is full.

    Columns are written to disk as soon as their schema allows; the tables of one segment are kept in memory.

    Args:
        folder: Folder of the index, locked for writing.
        next_file: The first file number that may be used.
        schema: The schema of the rows.
        max_rows: The :meth:`RowSchema.weight` at which a segment is full.

    Attributes:
        next_file: The next unused file number.
        done: Records of the segments that are complete and on disk.
    """

    def __init__(self, folder: Folder, next_file: int, schema: RowSchema, max_rows: int) -> None:
        self._folder = folder
        self._schema = schema
        self._max_rows = max_rows
        self._columns: dict[str, NewFile] = {}
        self._sorter = schema.sorter()
        self._rows: list[pa.Table] = []
        self._images: list[pa.Table] = []
        self._row_count = self._image_count = self._size = 0
        self.next_file = next_file
        self.done: list[SegmentRecord] = []

    def append(self, columns: Columns, rows: pa.Table, images: pa.Table) -> None:
        """Add whole images: columns of n rows, n rows of :data:`tables.ROWS`, rows of :data:`tables.IMAGES`."""
        for name in self._schema.columns:
            if name not in self._columns:
                self._columns[name] = NewFile(self._folder, f"{self.next_file:08d}.{name}")
        self._write(self._sorter.add(columns))
        self._rows.append(rows)
        self._images.append(images)
        self._row_count += rows.num_rows
        self._image_count += images.num_rows
        self._size += sum(values.nbytes for values in columns.values())
        if self._schema.weight(self._row_count, self._image_count, self._size) >= self._max_rows:
            self.close_segment()

    def close_segment(self) -> None:
        """Complete the current segment, if there is one."""
        if not self._columns:
            return
        for columns in self._sorter.rest():
            self._write(columns)
        number = f"{self.next_file:08d}"
        record = SegmentRecord(
            rows=self._row_count,
            images=self._image_count,
            files={
                **{name: file.finish() for name, file in self._columns.items()},
                "rows": write_file(self._folder, f"{number}.rows", to_ipc(self._rows, tables.ROWS)),
                "images": write_file(self._folder, f"{number}.images", to_ipc(self._images, tables.IMAGES)),
            },
        )
        self.done.append(record)
        self._columns, self._rows, self._images, self._sorter = {}, [], [], self._schema.sorter()
        self._row_count = self._image_count = self._size = 0
        self.next_file += 1

    def _write(self, columns: Columns) -> None:
        for name, values in columns.items():
            self._columns[name].write(values.data)

    def abandon(self) -> None:
        """Close the open files. They are deleted by the next clean-up, and their number is not used again."""
        for file in self._columns.values():
            file.abandon()
        self.next_file += bool(self._columns)
