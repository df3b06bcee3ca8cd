"""One immutable segment, opened for reading."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from objemb.index import tables
from objemb.index.codes import Codes, encode
from objemb.index.errors import DamagedIndexError
from objemb.index.files import FileRecord, check_buffer, map_file
from objemb.index.manifest import SegmentRecord
from objemb.structures import RegionDescriptors, Regions


class Segment:
    """Regions and images that were written together.

    All files are mapped at once, so that the segment stays readable when it is deleted; tables are checked against
    their checksum and parsed when they are first needed. Vectors are checked by ``verify`` only.

    Attributes:
        record: The segment's entry in the manifest.
        vectors: ``(rows, dim)`` float32 or float16, mapped.
        derived: Columns that filters made of this segment, kept for the next filter.

    Raises:
        FileNotFoundError: A file is gone.
        DamagedIndexError: A file has another length than the manifest says.
    """

    def __init__(self, folder: Path, record: SegmentRecord, dim: int, dtype: str) -> None:
        self.record = record
        self.derived: dict[str, Any] = {}
        self._folder = folder
        self._rows_buffer = map_file(folder, record.rows_file)
        self._images_buffer = map_file(folder, record.images_file)
        self.vectors = mapped_array(folder, record.vectors_file, dtype).reshape(record.rows, dim)

    @cached_property
    def rows(self) -> pa.RecordBatch:
        """The table of regions, see :data:`objemb.index.tables.ROWS`."""
        return self._table(self.record.rows_file, self._rows_buffer, tables.ROWS, self.record.rows)

    @cached_property
    def images(self) -> pa.RecordBatch:
        """The table of images, see :data:`objemb.index.tables.IMAGES`."""
        return self._table(self.record.images_file, self._images_buffer, tables.IMAGES, self.record.images)

    @cached_property
    def numbers(self) -> np.ndarray:
        """Internal image numbers: int64 ``(images,)``, ascending."""
        return tables.numbers_of(self.images, "image")

    @cached_property
    def counts(self) -> np.ndarray:
        """Regions per image: int64 ``(images,)``."""
        return tables.numbers_of(self.images, "rows")

    @cached_property
    def starts(self) -> np.ndarray:
        """First row of each image, and the number of rows at the end: int64 ``(images + 1,)``."""
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        if starts[-1] != self.record.rows or (self.counts < 0).any():
            raise DamagedIndexError(f"{self.record.name}: expected {self.record.rows} regions, found {starts[-1]}")
        return starts

    @cached_property
    def row_images(self) -> np.ndarray:
        """Internal image number of each row: int64 ``(rows,)``."""
        return tables.numbers_of(self.rows, "image")

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
        regions = Regions(
            boxes=torch.tensor(self.boxes[start:stop]),
            size=(columns["height"], columns["width"]),
            scores=torch.tensor(self.scores[start:stop]),
            labels=torch.tensor(self.label_codes[start:stop].astype(np.int64)),
            classes=tuple(self.label_names),
        )
        vectors = torch.tensor(self.vectors[start:stop].astype(np.float32))
        return RegionDescriptors(
            self.image_id(image), regions, vectors, tables.metadata_from_bytes(columns["metadata"])
        )

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

    def _table(self, record: FileRecord, buffer: pa.Buffer, schema: pa.Schema, count: int) -> pa.RecordBatch:
        check_buffer(self._folder, record, buffer)
        try:
            return tables.from_ipc(buffer, schema, count)
        except (ValueError, OSError, pa.ArrowException) as error:
            raise DamagedIndexError(f"{self._folder / record.name}: {error}") from error


def mapped_array(folder: Path, record: FileRecord, dtype: str) -> np.ndarray:
    """A file of raw little-endian numbers as an array that is mapped, not read."""
    buffer = map_file(folder, record)
    return np.frombuffer(buffer, np.dtype(dtype).newbyteorder("<")) if record.size else np.zeros(0, dtype)
