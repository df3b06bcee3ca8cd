"""A published state, opened for reading. It stays as it is while writers publish newer ones."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from objemb.checks import DamagedIndexError
from objemb.index.blocks import Block
from objemb.index.storage.files import StoredFile, map_file
from objemb.index.storage.manifest import Manifest, StructureRecord, read_manifest
from objemb.index.storage.segment import Segment
from objemb.types import BoolArray, Int64Array

#: Segments whose tables may wait to be read in open files; those of further segments are read at once.
HELD_SEGMENTS = 32


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
        # a wrong bit would bring deleted images back, and the next writer would give it a right checksum
        numbers = StoredFile(folder, manifest.deleted).content() if manifest.deleted else b""
        self.deleted = np.frombuffer(numbers, "<i8").astype(np.int64, copy=False)
        if (np.diff(self.deleted) <= 0).any():
            raise DamagedIndexError(f"{folder}: expected ascending numbers of deleted images, found others")
        self._structure_files = [
            {name: map_file(folder, file) for name, file in s.files.items()} for s in manifest.structures
        ]

    @staticmethod
    def load(folder: Path, earlier: Snapshot | None = None) -> Snapshot:
        """Open what is published now; opened segments of ``earlier`` (of the same folder) are used again.

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
        """Per segment which images are not deleted: bool ``(images,)``, or None for all."""
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
        """First row of each segment when all rows are counted through, and their number: int64 ``(segments + 1,)``."""
        return np.concatenate([[0], np.cumsum([s.record.rows for s in self.segments], dtype=np.int64)]).astype(np.int64)

    def structure_files(self, structure: StructureRecord) -> dict[str, pa.Buffer]:
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
