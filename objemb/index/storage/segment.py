"""One immutable segment, opened for reading."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from objemb.index.engines._codes import Codes, encode
from objemb.index.storage import tables
from objemb.index.storage.errors import DamagedIndexError
from objemb.index.storage.files import FileRecord, StoredFile, check_buffer, map_file
from objemb.index.storage.ipc import from_ipc
from objemb.index.storage.manifest import SegmentRecord
from objemb.structures import RegionDescriptors, Regions


class Segment:
    """Regions and images that were written together.

    All files are opened at once, so that the segment stays readable when it is deleted. Tables are read when they are
    first needed, and checked against their checksum and each other: no number in them leads outside of anything.
    Vectors are mapped, and checked by ``verify`` only.

    Attributes:
        record: The segment's entry in the manifest.
        vectors: ``(rows, dim)`` float32 or float16, mapped.

    Raises:
        FileNotFoundError: A file is gone.
        DamagedIndexError: A file has another length than the manifest says.

    Args:
        folder: Folder of the index.
        record: The segment's entry in the manifest.
        dim: Length of the vectors.
        dtype: Number type of the vectors on disk.
        hold: Whether large tables may wait in open files until they are needed.
    """

    def __init__(self, folder: Path, record: SegmentRecord, dim: int, dtype: str, *, hold: bool = True) -> None:
        self.record = record
        self._folder = folder
        self._rows_file = StoredFile(folder, record.rows_file, hold)
        self._images_file = StoredFile(folder, record.images_file, hold)
        numbers = np.frombuffer(map_file(folder, record.vectors_file), np.dtype(dtype).newbyteorder("<"))
        self.vectors = numbers.reshape(record.rows, dim)

    @cached_property
    def rows(self) -> pa.RecordBatch:
        """The table of regions, see :data:`objemb.index.storage.tables.ROWS`."""
        return self._table(self._rows_file, self.record.rows_file, tables.ROWS, self.record.rows)

    @cached_property
    def images(self) -> pa.RecordBatch:
        """The table of images, see :data:`objemb.index.storage.tables.IMAGES`."""
        return self._table(self._images_file, self.record.images_file, tables.IMAGES, self.record.images)

    @cached_property
    def numbers(self) -> np.ndarray:
        """Internal image numbers: int64 ``(images,)``, ascending from 0."""
        numbers = tables.numbers_of(self.images, "image")
        if (np.diff(numbers, prepend=-1) <= 0).any():
            raise self._damaged(self.record.images_file, "expected ascending image numbers")
        return numbers

    @cached_property
    def counts(self) -> np.ndarray:
        """Regions per image: int64 ``(images,)``."""
        return tables.numbers_of(self.images, "rows")

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each image, and the number of rows at the end: int64 ``(images + 1,)``."""
        # single counts first: sums of forged ones may overflow
        wrong = (self.counts < 0) | (self.counts > self.record.rows)
        starts = np.concatenate([[0], np.cumsum(np.where(wrong, 0, self.counts))])
        if wrong.any() or starts[-1] != self.record.rows:
            raise self._damaged(self.record.images_file, f"expected {self.record.rows} regions in all, found others")
        return starts

    @cached_property
    def row_images(self) -> np.ndarray:
        """Internal image number of each row: int64 ``(rows,)``."""
        numbers = tables.numbers_of(self.rows, "image")
        if not np.array_equal(self.per_row(self.numbers), numbers):
            raise self._damaged(self.record.rows_file, "expected regions in the order of their images")
        return numbers

    @cached_property
    def boxes(self) -> np.ndarray:
        """float32 ``(rows, 4)``, original pixels."""
        return tables.numbers_of(self.rows, "box")

    @cached_property
    def scores(self) -> np.ndarray:
        """Detector scores: float32 ``(rows,)``."""
        return tables.numbers_of(self.rows, "score")

    @cached_property
    def label_codes(self) -> np.ndarray:
        """Position in :attr:`label_names` of each row's label, -1 for none: int32 ``(rows,)``."""
        return self.rows.column("label").indices.fill_null(-1).to_numpy(zero_copy_only=True)

    @cached_property
    def label_names(self) -> list[str]:
        """The labels that occur."""
        return [tables.to_text(name) for name in self.rows.column("label").dictionary.to_pylist()]

    @cached_property
    def codes(self) -> Codes:
        """8-bit stand-ins of the vectors, made on first use and held in memory: they speed up exact search."""
        return encode(self.vectors)

    def check_vectors(self) -> None:
        """Read all vectors; raises ``DamagedIndexError`` when a byte was changed. To be called before copying them."""
        check_buffer(self._folder, self.record.vectors_file, self.vectors)

    def label(self, row: int) -> str | None:
        """Label of a row."""
        code = int(self.label_codes[row])
        return None if code < 0 else self.label_names[code]

    def image_id(self, image: int) -> str:
        """Id of the image at a position of the table of images."""
        return tables.to_text(self.images.column("id")[image].as_py())

    def image_ids(self) -> list[bytes]:
        """Ids of all images as UTF-8."""
        return self.images.column("id").to_pylist()

    def descriptors(self, image: int) -> RegionDescriptors:
        """All that is stored of the image at a position of the table of images."""
        columns = {n: self.images.column(n)[image].as_py() for n in ("height", "width", "metadata")}
        start, stop = self.starts[image : image + 2].tolist()
        name, metadata = self.image_id(image), tables.metadata_from_bytes(columns["metadata"])
        try:
            regions = Regions(
                boxes=torch.tensor(self.boxes[start:stop]),
                size=(columns["height"], columns["width"]),
                scores=torch.tensor(self.scores[start:stop]),
                labels=torch.tensor(self.label_codes[start:stop].astype(np.int64)),
                classes=tuple(self.label_names),
            )
            vectors = torch.tensor(self.vectors[start:stop].astype(np.float32))
            return RegionDescriptors(name, regions, vectors, metadata)
        except (ValueError, TypeError) as error:
            raise self._damaged(self.record.images_file, f"{name!r}: {error}") from error

    def live(self, deleted: np.ndarray) -> np.ndarray | None:
        """Which images are not among the ascending numbers ``deleted``: bool ``(images,)``, or None for all."""
        if not len(deleted) or not len(self.numbers):
            return None
        first, last = np.searchsorted(deleted, [self.numbers[0], self.numbers[-1] + 1])
        if first == last:
            return None
        return ~np.isin(self.numbers, deleted[first:last], assume_unique=True)

    def per_row(self, per_image: np.ndarray) -> np.ndarray:
        """Values of images ``(images,)`` repeated for each of their rows: ``(rows,)``."""
        return np.repeat(per_image, np.diff(self.starts))

    def _table(self, file: StoredFile, record: FileRecord, schema: pa.Schema, count: int) -> pa.RecordBatch:
        content = file.content()
        try:
            return from_ipc(content, schema, count)
        except (ValueError, OSError, MemoryError, pa.ArrowException) as error:
            raise self._damaged(record, str(error)) from error

    def _damaged(self, record: FileRecord, reason: str) -> DamagedIndexError:
        return DamagedIndexError(f"{self._folder / record.name}: {reason}")
