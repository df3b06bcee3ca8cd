"""One immutable segment, opened for reading."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from objemb.checks import DamagedIndexError
from objemb.index.storage import tables
from objemb.index.storage.files import StoredFile, check_buffer, map_file
from objemb.index.storage.ipc import from_ipc
from objemb.index.storage.manifest import SegmentRecord
from objemb.index.storage.schema import RowSchema
from objemb.structures import Described, Regions, Scalar
from objemb.types import BoolArray, Float32Array, Int32Array, Int64Array, Uint64Array

T = TypeVar("T", bound=np.generic)


class Segment:
    """Regions and images that were written together.

    All files are opened immediately, so that the segment stays readable if it is deleted. Tables are read when they are
    first needed, and checked against their checksums and each other, so that all numbers in them are valid. Columns are
    mapped, and checked only by ``verify``.

    Attributes:
        record: The segment's entry in the manifest.
        schema: The schema of the rows.
        columns: The rows, as decoded by the schema; mapped.

    Raises:
        FileNotFoundError: A file is gone.
        DamagedIndexError: A file does not have the length that the manifest says.

    Args:
        folder: Folder of the index.
        record: The segment's entry in the manifest.
        schema: The schema of the rows.
        hold: Whether large tables may be kept as open files until they are needed.
    """

    def __init__(self, folder: Path, record: SegmentRecord, schema: RowSchema, *, hold: bool = True) -> None:
        self.record = record
        self._folder = folder
        self.schema = schema
        self._tables = {name: StoredFile(folder, record.files[name], hold) for name in ("rows", "images")}
        self._content = {name: map_file(folder, record.files[name]) for name in schema.columns}
        self.columns = schema.decode(self._content, record.rows)

    @cached_property
    def rows(self) -> pa.RecordBatch:
        """The table of regions, see :data:`objemb.index.storage.tables.ROWS`."""
        return self._table("rows", tables.ROWS, self.record.rows)

    @cached_property
    def images(self) -> pa.RecordBatch:
        """The table of images, see :data:`objemb.index.storage.tables.IMAGES`."""
        return self._table("images", tables.IMAGES, self.record.images)

    @cached_property
    def numbers(self) -> Int64Array:
        """Internal image numbers: int64 ``(images,)``, ascending from 0."""
        numbers = tables.numbers_of(self.images, "image")
        if (np.diff(numbers, prepend=-1) <= 0).any():
            raise self._damaged("images", "expected ascending image numbers")
        return numbers

    @cached_property
    def counts(self) -> Int64Array:
        """Regions per image: int64 ``(images,)``."""
        return tables.numbers_of(self.images, "rows")

    @cached_property
    def starts(self) -> Int64Array:
        """First row of each image, and the number of rows at the end: int64 ``(images + 1,)``."""
        # single counts first: sums of forged ones may overflow
        wrong = (self.counts < 0) | (self.counts > self.record.rows)
        starts = np.concatenate([[0], np.cumsum(np.where(wrong, 0, self.counts))])
        if wrong.any() or starts[-1] != self.record.rows:
            raise self._damaged("images", f"expected {self.record.rows} regions in all, found others")
        return starts

    @cached_property
    def row_images(self) -> Int64Array:
        """Internal image number of each row: int64 ``(rows,)``."""
        numbers = tables.numbers_of(self.rows, "image")
        if not np.array_equal(self.per_row(self.numbers), numbers):
            raise self._damaged("rows", "expected regions in the order of their images")
        return numbers

    @cached_property
    def boxes(self) -> Float32Array:
        """float32 ``(rows, 4)``, original pixels."""
        return tables.numbers_of(self.rows, "box")

    @cached_property
    def scores(self) -> Float32Array:
        """Detector scores: float32 ``(rows,)``."""
        return tables.numbers_of(self.rows, "score")

    @cached_property
    def label_codes(self) -> Int32Array:
        """Position in :attr:`label_names` of each row's label, -1 for none: int32 ``(rows,)``."""
        codes: Int32Array = self.rows.column("label").indices.fill_null(-1).to_numpy(zero_copy_only=True)
        return codes

    @cached_property
    def label_names(self) -> list[str]:
        """The labels that occur."""
        return [tables.to_text(name) for name in self.rows.column("label").dictionary.to_pylist()]

    def check_columns(self) -> None:
        """Read all columns; raises ``DamagedIndexError`` if a byte was changed. To be called before copying them."""
        for name, content in self._content.items():
            check_buffer(self._folder, self.record.files[name], content)

    def label(self, row: int) -> str | None:
        """Label of a row."""
        code = int(self.label_codes[row])
        return None if code < 0 else self.label_names[code]

    def image_id(self, image: int) -> str:
        """Id of the image at a position of the table of images."""
        text, ends = self._ids
        return tables.to_text(text[ends[image] : ends[image + 1]])

    def stamp(self, image: int) -> str | None:
        """Stamp of the image at a position of the table of images."""
        mark = self.images.column("stamp")[image].as_py()
        return None if mark is None else tables.to_text(mark)

    def metadata(self, image: int) -> dict[str, Scalar]:
        """Metadata of the image at a position of the table of images."""
        return tables.metadata_from_bytes(self.images.column("metadata")[image].as_py())

    @cached_property
    def _ids(self) -> tuple[memoryview, memoryview]:
        """The bytes of all ids, and where each begins and the last ends: int64 ``(images + 1,)``.

        Both as memory, of which Python reads single entries sooner than of arrays.
        """
        ids = self.images.column("id")
        _, ends, text = ids.buffers()
        of_ids = memoryview(ends).cast("B").cast("q")[ids.offset : ids.offset + len(ids) + 1]
        return memoryview(b"" if text is None else text), of_ids

    def positions(self, image: str) -> list[int]:
        """Positions of an id in the table of images; several if an image was replaced in the same transaction."""
        ids, order, key = self.images.column("id"), self._order_of_ids, tables.to_bytes(image)
        first, stop = (side(order, key, key=lambda at: ids[int(at)].as_py()) for side in (bisect_left, bisect_right))
        return sorted(order[first:stop].tolist())

    def image_ids(self) -> list[bytes]:
        """Ids of all images as UTF-8."""
        ids: list[bytes] = self.images.column("id").to_pylist()
        return ids

    @cached_property
    def _order_of_ids(self) -> Uint64Array:
        """Positions in the order of the ids, sorted once, so that a look-up takes microseconds."""
        import pyarrow.compute as pc  # a tenth of the start of a command that needs no lookup

        order: Uint64Array = pc.array_sort_indices(self.images.column("id")).to_numpy()
        return order

    def described(self, image: int) -> Described:
        """The stored rows and metadata of the image at a position of the table of images."""
        columns = {n: self.images.column(n)[image].as_py() for n in ("height", "width")}
        start, stop = self.starts[image : image + 2].tolist()
        name, metadata = self.image_id(image), self.metadata(image)
        try:
            regions = Regions(
                boxes=self.boxes[start:stop].copy(),
                size=(columns["height"], columns["width"]),
                scores=self.scores[start:stop].copy(),
                labels=self.label_codes[start:stop].astype(np.int64),
                classes=tuple(self.label_names),
            )
            return self.schema.described(name, regions, self.columns, slice(start, stop), metadata)
        except (ValueError, TypeError) as error:
            raise self._damaged("images", f"{name!r}: {error}") from error

    def live(self, deleted: Int64Array) -> BoolArray | None:
        """Which images are not among the ascending numbers ``deleted``: bool ``(images,)``, or None for all."""
        if not len(deleted) or not len(self.numbers):
            return None
        first, last = np.searchsorted(deleted, [self.numbers[0], self.numbers[-1] + 1])
        if first == last:
            return None
        return ~np.isin(self.numbers, deleted[first:last], assume_unique=True)

    def per_row(self, per_image: NDArray[T]) -> NDArray[T]:
        """Values of images ``(images,)`` repeated for each of their rows: ``(rows,)``."""
        return np.repeat(per_image, np.diff(self.starts))

    def _table(self, name: str, schema: pa.Schema, count: int) -> pa.RecordBatch:
        content = self._tables[name].content()
        try:
            return from_ipc(content, schema, count)
        except (ValueError, OSError, MemoryError, pa.ArrowException) as error:
            raise self._damaged(name, str(error)) from error

    def _damaged(self, table: str, reason: str) -> DamagedIndexError:
        return DamagedIndexError(f"{self._folder / self.record.files[table].name}: {reason}")
