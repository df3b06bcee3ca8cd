"""A published state, opened for reading. It does not change while writers publish newer ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from objemb.checks import DamagedIndexError
from objemb.index.storage import tables
from objemb.index.storage.blocks import Block
from objemb.index.storage.files import StoredFile, map_file
from objemb.index.storage.manifest import Manifest, StructureRecord, read_manifest
from objemb.index.storage.segment import Segment
from objemb.structures import Scalar
from objemb.types import BoolArray, Buffer, Int64Array

#: Images whose numbers are remembered: those that were searched for or looked up last.
REMEMBERED_IMAGES = 1 << 16
#: Number of segments whose tables may be kept as open files until needed; those of further segments are read
#: immediately.
HELD_SEGMENTS = 32


class StoredImage(NamedTuple):
    """Stored data of an image apart from its regions: its id, the stamp with which it was added, and its metadata."""

    id: str
    stamp: str | None
    metadata: dict[str, Scalar]


class Snapshot:
    """All segments of one state.

    Attributes:
        folder: Folder of the index.
        manifest: What was published.
        segments: The opened segments.
        deleted: Internal numbers of deleted images: int64, ascending; read and checked.
    """

    segments: list[Segment]

    def __init__(self, folder: Path, manifest: Manifest, earlier: Snapshot | None = None) -> None:
        known = {s.record.name: s for s in earlier.segments} if earlier else {}
        self.folder = folder
        self.manifest = manifest
        self.segments = [
            known[r.name]
            if r.name in known and known[r.name].record == r
            else Segment(folder, r, manifest.schema, hold=number < HELD_SEGMENTS)
            for number, r in enumerate(manifest.segments)
        ]
        # a wrong bit would restore deleted images, and the next writer would compute a valid checksum for it
        numbers = StoredFile(folder, manifest.deleted).content() if manifest.deleted else b""
        self.deleted = np.frombuffer(numbers, "<i8").astype(np.int64, copy=False)
        if (np.diff(self.deleted) <= 0).any():
            raise DamagedIndexError(f"{folder}: expected ascending numbers of deleted images, found others")
        self._numbers: dict[str, int] = {}
        self._structure_files = [
            {name: map_file(folder, file) for name, file in s.files.items()} for s in manifest.structures
        ]

    @staticmethod
    def load(folder: Path, earlier: Snapshot | None = None) -> Snapshot:
        """Open the published state; opened segments of ``earlier`` (of the same folder) are used again.

        Raises:
            DamagedIndexError: A file is missing or has the wrong length, or the manifest is damaged.
            IndexFolderError: There is no index.
            ArtefactMismatchError: A newer objemb wrote it.
        """
        manifest = read_manifest(folder)
        while True:
            try:
                return Snapshot(folder, manifest, earlier)
            except (FileNotFoundError, NotADirectoryError) as error:
                # a writer may have published, and deleted what is no longer needed, since the manifest was read
                before, manifest = manifest, read_manifest(folder)
                if before == manifest:
                    raise DamagedIndexError(f"{error.filename or error}: expected by the manifest, missing") from error

    @cached_property
    def live(self) -> list[BoolArray | None]:
        """For each segment, the images that are not deleted: bool ``(images,)``, or None for all."""
        return [s.live(self.deleted) for s in self.segments]

    @cached_property
    def blocks(self) -> list[Block]:
        """The searchable rows, one block per segment."""
        return [
            s.schema.block(s.columns, s.row_images, None if live is None else s.per_row(live))
            for s, live in zip(self.segments, self.live, strict=True)
        ]

    @cached_property
    def first_rows(self) -> Int64Array:
        """int64 ``(segments + 1,)``: number of the first row of each segment among all rows, and the number of rows."""
        return np.concatenate([[0], np.cumsum([s.record.rows for s in self.segments], dtype=np.int64)]).astype(np.int64)

    @cached_property
    def first_images(self) -> Int64Array:
        """int64 ``(segments + 1,)``: the same for images."""
        return np.concatenate([[0], np.cumsum([s.record.images for s in self.segments], dtype=np.int64)]).astype(
            np.int64
        )

    @cached_property
    def image_starts(self) -> Int64Array:
        """int64 ``(images + 1,)``: number of the first row of each image of all segments among all rows, and the number
        of rows."""
        starts = [s.starts[:-1] + first for s, first in zip(self.segments, self.first_rows.tolist(), strict=False)]
        return np.concatenate([*starts, self.first_rows[-1:]])

    @cached_property
    def image_shifts(self) -> Int64Array | None:
        """int64 ``(segments,)``: what has to be added to the internal number of an image of a segment for its number
        among all images; None where internal numbers are missing within a segment."""
        shifts = np.zeros(len(self.segments), np.int64)
        for place, (segment, first) in enumerate(zip(self.segments, self.first_images.tolist(), strict=False)):
            numbers = segment.numbers
            if len(numbers):
                if numbers[-1] - numbers[0] != len(numbers) - 1:
                    return None
                shifts[place] = first - numbers[0]
        return shifts

    def structure_files(self, structure: StructureRecord) -> dict[str, Buffer]:
        """The files of a structure of this state, mapped and not yet checked."""
        return self._structure_files[self.manifest.structures.index(structure)]

    def covered_share(self, structure: StructureRecord) -> float:
        """Share of all rows that a structure covers."""
        return float(self.first_rows[structure.segments] / max(1, self.first_rows[-1]))

    @cached_property
    def image_count(self) -> int:
        """Number of live images."""
        return sum(
            s.record.images if live is None else int(live.sum())
            for s, live in zip(self.segments, self.live, strict=True)
        )

    @cached_property
    def region_count(self) -> int:
        """Number of regions of live images."""
        return sum(
            s.record.rows if live is None else int(s.counts[live].sum())
            for s, live in zip(self.segments, self.live, strict=True)
        )

    def added_since(self, next_image: int) -> int:
        """Number of live images whose internal number is at least ``next_image``."""
        return sum(
            int(((s.numbers >= next_image) & (True if live is None else live)).sum())
            for s, live in zip(self.segments, self.live, strict=True)
            if s.record.images
        )

    def place(self, image: str) -> tuple[Segment, int] | None:
        """The segment of a live image and its position in the segment; None if the id is not there."""
        number = self.number(image)
        return None if number is None else self.place_of(number)

    def place_of(self, number: int) -> tuple[Segment, int]:
        """The segment of an image, numbered through all segments, and its position in the segment."""
        place = int(np.searchsorted(self.first_images, number, side="right")) - 1
        return self.segments[place], number - int(self.first_images[place])

    def number(self, image: str) -> int | None:
        """The number of a live image, counted through all segments; None if the id is not there."""
        number = self._numbers.get(image)
        if number is not None:
            return number
        for segment, live, first in zip(self.segments, self.live, self.first_images.tolist(), strict=False):
            for position in segment.positions(image):
                if live is None or live[position]:
                    self.remember([image], [first + position])
                    return int(first + position)
        return None

    def remember(self, images: Sequence[str], numbers: Sequence[int]) -> None:
        """Remember the numbers of live images that were found: hits are looked up again by re-rankers and pages."""
        if len(self._numbers) >= REMEMBERED_IMAGES:
            self._numbers.clear()
        self._numbers.update(zip(images, numbers, strict=True))

    def images(self, start: int = 0) -> Iterator[StoredImage]:
        """Every live image from the one with the number ``start`` on, in the order in which they were added."""
        for segment, live in self._live_positions():
            passed, start = live[start:], max(0, start - len(live))
            columns = [segment.images.column(n) for n in ("id", "metadata")] if len(passed) else []
            for position in passed.tolist():
                id_, metadata = (c[position].as_py() for c in columns)
                yield StoredImage(tables.to_text(id_), segment.stamp(position), tables.metadata_from_bytes(metadata))

    def stamps(self) -> dict[str, str | None]:
        """The stamp of every live image by id."""
        stamps: dict[str, str | None] = {}
        for segment, live in self._live_positions():
            ids, marks = (segment.images.column(n).take(live).to_pylist() for n in ("id", "stamp"))
            texts = (None if mark is None else tables.to_text(mark) for mark in marks)
            stamps.update(zip(map(tables.to_text, ids), texts, strict=True))
        return stamps

    def facts(self) -> dict[str, object]:
        """Counts, sizes, model and search structure, JSON-ready."""
        manifest = self.manifest
        stored = sum(s.images for s in manifest.segments)
        return {
            "format": manifest.format,
            "images": self.image_count,
            "regions": self.region_count,
            "segments": len(manifest.segments),
            "bytes": sum(f.size for f in manifest.files),
            **{"schema" if key == "name" else key: value for key, value in manifest.schema.to_json().items()},
            "fingerprint": manifest.fingerprint,
            "model": manifest.model,
            "created": manifest.created,
            "updated": manifest.updated,
            "deleted_share": 1 - self.image_count / stored if stored else 0.0,
            "approximate": manifest.structures[0].engine if manifest.structures else None,
            "calibration": None if manifest.calibration is None else manifest.calibration.to_json(),
            "approximate_share": self.covered_share(manifest.structures[0]) if manifest.structures else 0.0,
        }

    def _live_positions(self) -> Iterator[tuple[Segment, Int64Array]]:
        """Segments with the positions of their live images."""
        for segment, live in zip(self.segments, self.live, strict=True):
            yield segment, np.arange(segment.record.images) if live is None else np.flatnonzero(live)
