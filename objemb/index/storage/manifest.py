"""The manifest: the one file that lists what an index contains.

An index is a folder::

    manifest           what is published; replaced atomically, never edited
    lock               held by the writer
    00000001.vectors   a segment's vectors: raw little-endian float32 or float16, (rows, dim), C order
    00000001.rows      a segment's regions: Arrow IPC file, see :mod:`objemb.index.storage.tables`
    00000001.images    a segment's images: Arrow IPC file
    00000007.deleted   internal numbers of all deleted images: raw little-endian int64, ascending
    00000009.ann       a file of a search structure over the first segments; the engine knows what is inside

The manifest names the schema of the rows (:mod:`objemb.index.storage.schema`); another schema has other files in the
place of ``.vectors``. It names each search structure by its engine and the engine's settings.

Every file but the manifest is immutable. A new state is new files plus a new manifest, so a reader sees the old state
or the new one and a writer may be killed at any moment. File numbers are never used twice, internal image
numbers only after a migration to another model (:mod:`objemb.index.storage.generations`), which replaces all images.

A calibration of scores is part of the manifest; readers that do not know it leave it aside.

The first line of the manifest carries the format version and the SHA-256 of the JSON that follows it. Format 2 is
written. Format 1, which knew vectors and one inverted file of FAISS only, differs in the manifest alone: its files are
those of format 2, so an index of format 1 is read as it is, and the first writer that publishes leaves a manifest of
format 2 over the same files.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NotRequired, TypedDict

from objemb import checks
from objemb.checks import ArtefactMismatchError, DamagedIndexError, IndexFolderError
from objemb.index.storage.calibration import Calibration
from objemb.index.storage.files import FileJson, FileRecord, Folder, read_file
from objemb.index.storage.schema import RowSchema
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.storage.visual_words import WordRows
from objemb.types import Settings

#: The version that is written; format 1 is read as well.
FORMAT = 2
_READABLE = (1, FORMAT)
MANIFEST_FILE = "manifest"
#: A segment takes about 600 bytes of a manifest.
MAX_BYTES = 1 << 28
#: The kinds of rows by name.
SCHEMAS: dict[str, type[RowSchema]] = {UnitVectors.name: UnitVectors, WordRows.name: WordRows}
_HEADER = re.compile(rb"objemb-index (\d{1,9}) sha256:([0-9a-f]{64})\n")


class SegmentJson(TypedDict):
    """A segment in the manifest, see :class:`SegmentRecord`."""

    rows: int
    images: int
    files: dict[str, FileJson]


class StructureJson(TypedDict):
    """A search structure in the manifest, see :class:`StructureRecord`."""

    engine: str
    settings: dict[str, object]
    segments: int
    files: dict[str, FileJson]


class _CommonJson(TypedDict):
    fingerprint: str
    model: dict[str, object] | None
    created: str
    updated: str
    generation: int
    next_image: int
    next_file: int
    segments: list[SegmentJson]
    deleted: FileJson | None


class ManifestJson(_CommonJson):
    """The content of a manifest, see :class:`Manifest`."""

    schema: Settings
    structures: list[StructureJson]
    calibration: NotRequired[dict[str, object] | None]


class AnnJson(TypedDict):
    """A search structure in format 1."""

    kind: str
    segments: int
    file: FileJson


class Format1Json(_CommonJson):
    """The content of a manifest of format 1."""

    dim: int
    dtype: str
    ann: AnnJson | None


@dataclass(frozen=True)
class SegmentRecord:
    """A segment in the manifest.

    Attributes:
        rows: Number of regions, including those of deleted images.
        images: Number of images, including deleted ones.
        files: The files by content: the columns of the index's schema, and the tables ``rows`` and ``images``.
    """

    rows: int
    images: int
    files: Mapping[str, FileRecord]

    @property
    def name(self) -> str:
        """The number of its files, unique among all segments of all states of the index."""
        return self.files["rows"].name.partition(".")[0]

    def to_json(self) -> dict[str, object]:
        """A JSON-ready dict; :meth:`from_json` reverses it."""
        return {"rows": self.rows, "images": self.images, "files": _files_to_json(self.files)}

    @staticmethod
    def from_json(data: SegmentJson) -> SegmentRecord:
        """A record from what :meth:`to_json` made."""
        return SegmentRecord(data["rows"], data["images"], _files_from_json(data["files"]))


@dataclass(frozen=True)
class StructureRecord:
    """A search structure in the manifest.

    Attributes:
        engine: Name of the engine that built it, see :mod:`objemb.index.engines.base`.
        settings: The engine's settings, without those that have their default.
        segments: Number of segments that it covers, from the first on.
        files: The files by the names that the engine gave them.
    """

    engine: str
    settings: Mapping[str, object]
    segments: int
    files: Mapping[str, FileRecord]

    def to_json(self) -> dict[str, object]:
        """A JSON-ready dict; :meth:`from_json` reverses it."""
        plain = {"engine": self.engine, "settings": dict(self.settings), "segments": self.segments}
        return {**plain, "files": _files_to_json(self.files)}

    @staticmethod
    def from_json(data: StructureJson) -> StructureRecord:
        """A record from what :meth:`to_json` made."""
        return StructureRecord(data["engine"], data["settings"], data["segments"], _files_from_json(data["files"]))


@dataclass(frozen=True)
class Manifest:
    """A published state.

    Attributes:
        schema: The schema of the rows.
        fingerprint: The fingerprint of the model of the rows.
        model: Description of that model, JSON, or None.
        created: When the index was created, ISO 8601 in UTC.
        updated: When this state was published.
        generation: Number of this state; grows by one with every publication.
        next_image: The next free internal image number.
        next_file: The next free file number.
        segments: In the order of their internal image numbers.
        deleted: Internal numbers of deleted images that are still in segments, or None.
        structures: The search structures, in order of preference.
        calibration: What the scores mean, if that is known.
        format: Version of the format in which the state was read; the next state is written in :data:`FORMAT`.
    """

    schema: RowSchema
    fingerprint: str
    model: Mapping[str, object] | None
    created: str
    updated: str
    generation: int = 0
    next_image: int = 0
    next_file: int = 1
    segments: tuple[SegmentRecord, ...] = ()
    deleted: FileRecord | None = None
    structures: tuple[StructureRecord, ...] = ()
    calibration: Calibration | None = None
    format: int = FORMAT

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """All files of this state."""
        extra = (self.deleted,) if self.deleted else ()
        parts = (*(s.files for s in self.segments), *(s.files for s in self.structures))
        return tuple(file for files in parts for file in files.values()) + extra

    def weight(self, segment: SegmentRecord) -> int:
        """What a segment counts as when segments are joined, see :meth:`RowSchema.weight`."""
        size = sum(segment.files[c].size for c in self.schema.columns)
        return self.schema.weight(segment.rows, segment.images, size)

    @property
    def column_files(self) -> tuple[FileRecord, ...]:
        """The files of the columns of rows, without the tables."""
        return tuple(s.files[c] for s in self.segments for c in self.schema.columns)

    @property
    def kind(self) -> dict[str, object]:
        """Properties that two indexes must share to be merged."""
        kind = self.schema.kind  # named first, because different rows imply different models
        return {"schema": kind["schema"], "fingerprint": self.fingerprint, **kind}

    def to_json(self) -> dict[str, object]:
        """A JSON-ready dict; :meth:`from_json` reverses it."""
        return {
            "schema": self.schema.to_json(),
            "fingerprint": self.fingerprint,
            "model": None if self.model is None else dict(self.model),
            "created": self.created,
            "updated": self.updated,
            "generation": self.generation,
            "next_image": self.next_image,
            "next_file": self.next_file,
            "segments": [s.to_json() for s in self.segments],
            "deleted": self.deleted.to_json() if self.deleted else None,
            "structures": [s.to_json() for s in self.structures],
            **({"calibration": self.calibration.to_json()} if self.calibration else {}),
        }

    @staticmethod
    def from_json(data: ManifestJson, format: int = FORMAT) -> Manifest:
        """A manifest from what :meth:`to_json` made."""
        return Manifest(
            schema=schema_from_json(data["schema"]),
            fingerprint=data["fingerprint"],
            model=data["model"],
            created=data["created"],
            updated=data["updated"],
            generation=data["generation"],
            next_image=data["next_image"],
            next_file=data["next_file"],
            segments=tuple(SegmentRecord.from_json(s) for s in data["segments"]),
            deleted=FileRecord.from_json(data["deleted"]) if data["deleted"] else None,
            structures=tuple(StructureRecord.from_json(s) for s in data["structures"]),
            calibration=Calibration.from_json(stored) if (stored := data.get("calibration")) else None,
            format=format,
        )


def _from_format_1(data: Format1Json) -> ManifestJson:
    """Format 1 had vectors only, and at most one search structure, of one file."""
    schema = {"name": UnitVectors.name, "dim": data["dim"], "dtype": data["dtype"]}
    structures: list[StructureJson] = []
    if ann := data["ann"]:
        structures = [
            {"engine": ann["kind"], "settings": {}, "segments": ann["segments"], "files": {"index": ann["file"]}}
        ]
    return {
        "schema": schema,
        "structures": structures,
        "fingerprint": data["fingerprint"],
        "model": data["model"],
        "created": data["created"],
        "updated": data["updated"],
        "generation": data["generation"],
        "next_image": data["next_image"],
        "next_file": data["next_file"],
        "segments": data["segments"],
        "deleted": data["deleted"],
    }


def _files_to_json(files: Mapping[str, FileRecord]) -> dict[str, object]:
    return {name: file.to_json() for name, file in files.items()}


def _files_from_json(data: Mapping[str, FileJson]) -> dict[str, FileRecord]:
    return {name: FileRecord.from_json(file) for name, file in data.items()}


def now() -> str:
    """The time for ``created`` and ``updated``."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_manifest(folder: Folder, manifest: Manifest) -> None:
    """Publish a state. Its files must be on disk already."""
    body = (json.dumps(manifest.to_json(), indent=1) + "\n").encode("utf-8")
    header = f"objemb-index {FORMAT} sha256:{hashlib.sha256(body).hexdigest()}\n".encode("ascii")
    folder.replace(MANIFEST_FILE, header + body)


def read_manifest(folder: Path) -> Manifest:
    """The published state.

    Raises:
        IndexFolderError: There is no index.
        ArtefactMismatchError: The index was written by a newer objemb.
        DamagedIndexError: The manifest was changed or truncated, or is not a regular file.
    """
    path = folder / MANIFEST_FILE
    try:
        data = read_file(path, MAX_BYTES)
    except FileNotFoundError:
        what = "a folder without a manifest" if folder.is_dir() else "a file" if folder.exists() else "nothing"
        raise IndexFolderError(f"{folder}: expected an objemb index, found {what}") from None
    except NotADirectoryError:
        raise IndexFolderError(f"{folder}: expected an objemb index, found a file") from None
    header = _HEADER.match(data)
    if header is None:
        raise DamagedIndexError(f"{path}: expected the header of an objemb index, found {data[:40]!r}")
    version = int(header[1])
    if version not in _READABLE:
        readable = " or ".join(map(str, _READABLE))
        raise ArtefactMismatchError(
            f"{folder}: expected index format {readable}, found {version}: a newer version of objemb wrote it"
        )
    body = data[header.end() :]
    found = hashlib.sha256(body).hexdigest()
    if found != header[2].decode("ascii"):
        raise DamagedIndexError(f"{path}: expected SHA-256 {header[2].decode('ascii')}, found {found}")
    return _parsed(path, body, version)


def _parsed(path: Path, body: bytes, version: int) -> Manifest:
    try:
        data = json.loads(body)
        manifest = Manifest.from_json(_from_format_1(data) if version == 1 else data, version)
        _check(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedIndexError(f"{path}: cannot be understood: {type(error).__name__}: {error}") from error
    return manifest


def _check(manifest: Manifest) -> None:
    """Check that every field has its type, and that no number refers to something outside a file."""
    texts = {k: getattr(manifest, k) for k in ("fingerprint", "created", "updated")}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise TypeError(f"{name}: expected a text, found {type(value).__name__}")
    if not isinstance(manifest.model, dict | None):
        raise TypeError(f"model: expected an object or null, found {type(manifest.model).__name__}")
    for name in ("generation", "next_image", "next_file"):
        checks.between(name, checks.whole(name, getattr(manifest, name), 0), 0, 1 << 62)
    for segment in manifest.segments:
        _check_segment(manifest.schema, segment)
    if manifest.deleted and manifest.deleted.size % 8:
        raise ValueError(f"{manifest.deleted.name}: expected whole int64 numbers, found {manifest.deleted.size} bytes")
    for structure in manifest.structures:
        if not isinstance(structure.engine, str) or not isinstance(structure.settings, dict):
            raise TypeError(f"structure: expected an engine and settings, found {structure.engine!r}")
        if checks.whole("structure", structure.segments, 0) > len(manifest.segments):
            raise ValueError(
                f"structure: expected at most {len(manifest.segments)} segments, found {structure.segments}"
            )
    numbers = [int(file.name.split(".")[0]) for file in manifest.files]
    if numbers and max(numbers) >= manifest.next_file:
        raise ValueError(f"next_file: expected a number above {max(numbers)}, found {manifest.next_file}")


def _check_segment(schema: RowSchema, segment: SegmentRecord) -> None:
    wanted = {*schema.columns, "rows", "images"}
    if set(segment.files) != wanted:
        found = checks.listed(sorted(segment.files))
        raise ValueError(f"segment: expected the files {checks.listed(sorted(wanted))}, found {found}")
    for name, count in (("rows", segment.rows), ("images", segment.images)):
        checks.between(name, checks.whole(name, count, 0), 0, 1 << 62)
    schema.check_sizes(segment.rows, {c: segment.files[c].size for c in schema.columns})


def schema_from_json(data: Settings) -> RowSchema:
    """A schema from what :meth:`RowSchema.to_json` made. Raises ``ValueError`` or ``TypeError`` for anything else."""
    fields = dict(data)
    name = checks.one_of("schema", fields.pop("name"), tuple(SCHEMAS))
    return SCHEMAS[name](**fields)
