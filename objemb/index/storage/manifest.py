"""The manifest: the one file that says what an index holds.

An index is a folder::

    manifest           what is published; replaced atomically, never edited
    lock               held by the writer
    00000001.vectors   a segment's vectors: raw little-endian float32 or float16, (rows, dim), C order
    00000001.rows      a segment's regions: Arrow IPC file, see :mod:`objemb.index.storage.tables`
    00000001.images    a segment's images: Arrow IPC file
    00000007.deleted   internal numbers of all deleted images: raw little-endian int64, ascending
    00000009.ann       an approximate search structure over the first segments

Every file but the manifest is immutable. A new state is new files plus a new manifest, so a reader sees the old state
or the new one and a writer may be killed at any moment. File numbers and internal image numbers are never used twice.

The first line of the manifest carries the format version and the SHA-256 of the JSON that follows it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from objemb import checks
from objemb.checks import ArtefactMismatchError
from objemb.index.storage.errors import DamagedIndexError, IndexFolderError
from objemb.index.storage.files import FileRecord, Folder, read_file

FORMAT = 1
MANIFEST_FILE = "manifest"
#: A segment takes about 600 bytes of a manifest.
MOST_BYTES = 1 << 28
DTYPES = ("float32", "float16")
#: Longer vectors are no descriptors.
MOST_DIM = 1 << 24
_HEADER = re.compile(rb"objemb-index (\d{1,9}) sha256:([0-9a-f]{64})\n")


@dataclass(frozen=True)
class SegmentRecord:
    """A segment in the manifest.

    Attributes:
        rows: Number of regions, those of deleted images included.
        images: Number of images, deleted ones included.
        vectors_file: ``rows * dim`` numbers.
        rows_file: Table of the regions.
        images_file: Table of the images.
    """

    rows: int
    images: int
    vectors_file: FileRecord
    rows_file: FileRecord
    images_file: FileRecord

    @property
    def name(self) -> str:
        """What tells this segment from all others, in all states of the index."""
        return self.vectors_file.name

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """The three files."""
        return (self.vectors_file, self.rows_file, self.images_file)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_json` reverses it."""
        files = {"vectors": self.vectors_file, "rows": self.rows_file, "images": self.images_file}
        return {"rows": self.rows, "images": self.images, "files": {k: f.to_json() for k, f in files.items()}}

    @staticmethod
    def from_json(data: dict[str, Any]) -> SegmentRecord:
        """A record from what :meth:`to_json` made."""
        vectors, rows, images = (FileRecord.from_json(data["files"][k]) for k in ("vectors", "rows", "images"))
        return SegmentRecord(data["rows"], data["images"], vectors, rows, images)


@dataclass(frozen=True)
class AnnRecord:
    """An approximate search structure: its kind, and how many segments, from the first on, it covers."""

    kind: str
    segments: int
    file: FileRecord

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_json` reverses it."""
        return {"kind": self.kind, "segments": self.segments, "file": self.file.to_json()}

    @staticmethod
    def from_json(data: dict[str, Any]) -> AnnRecord:
        """A record from what :meth:`to_json` made."""
        return AnnRecord(data["kind"], data["segments"], FileRecord.from_json(data["file"]))


@dataclass(frozen=True)
class Manifest:
    """A published state.

    Attributes:
        dim: Length of the vectors.
        dtype: Number type of the stored vectors, one of :data:`DTYPES`.
        fingerprint: Which model made the vectors.
        model: Description of that model, JSON, or None.
        created: When the index was created, ISO 8601 in UTC.
        updated: When this state was published.
        generation: Number of this state; grows by one with every publication.
        next_image: The next free internal image number.
        next_file: The next free file number.
        segments: In the order of their internal image numbers.
        deleted: Internal numbers of deleted images that are still in segments, or None.
        ann: The approximate search structure, or None.
    """

    dim: int
    dtype: str
    fingerprint: str
    model: Mapping[str, Any] | None
    created: str
    updated: str
    generation: int = 0
    next_image: int = 0
    next_file: int = 1
    segments: tuple[SegmentRecord, ...] = ()
    deleted: FileRecord | None = None
    ann: AnnRecord | None = None

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """All files of this state."""
        extra = (self.deleted, self.ann.file if self.ann else None)
        return tuple(f for s in self.segments for f in s.files) + tuple(f for f in extra if f)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dict; :meth:`from_json` reverses it."""
        return {
            "dim": self.dim,
            "dtype": self.dtype,
            "fingerprint": self.fingerprint,
            "model": None if self.model is None else dict(self.model),
            "created": self.created,
            "updated": self.updated,
            "generation": self.generation,
            "next_image": self.next_image,
            "next_file": self.next_file,
            "segments": [s.to_json() for s in self.segments],
            "deleted": self.deleted.to_json() if self.deleted else None,
            "ann": self.ann.to_json() if self.ann else None,
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Manifest:
        """A manifest from what :meth:`to_json` made."""
        plain = {k: data[k] for k in ("dim", "dtype", "fingerprint", "model", "created", "updated", "generation")}
        return Manifest(
            **plain,
            next_image=data["next_image"],
            next_file=data["next_file"],
            segments=tuple(SegmentRecord.from_json(s) for s in data["segments"]),
            deleted=FileRecord.from_json(data["deleted"]) if data["deleted"] else None,
            ann=AnnRecord.from_json(data["ann"]) if data["ann"] else None,
        )


def now() -> str:
    """The time for ``created`` and ``updated``."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def write_manifest(folder: Folder, manifest: Manifest) -> None:
    """Publish a state. Its files must be on disk already."""
    body = (json.dumps(manifest.to_json(), indent=1) + "\n").encode("utf-8")
    header = f"objemb-index {FORMAT} sha256:{hashlib.sha256(body).hexdigest()}\n".encode("ascii")
    folder.replace(MANIFEST_FILE, header + body)


def read_manifest(folder: Path) -> Manifest:
    """The state that is published now.

    Raises:
        IndexFolderError: There is no index.
        ArtefactMismatchError: The index was written by a newer objemb.
        DamagedIndexError: The manifest was changed or truncated, or is no regular file.
    """
    path = folder / MANIFEST_FILE
    try:
        data = read_file(path, MOST_BYTES)
    except FileNotFoundError:
        what = "a folder without a manifest" if folder.is_dir() else "a file" if folder.exists() else "nothing"
        raise IndexFolderError(f"{folder}: expected an objemb index, found {what}") from None
    except NotADirectoryError:
        raise IndexFolderError(f"{folder}: expected an objemb index, found a file") from None
    header = _HEADER.match(data)
    if header is None:
        raise DamagedIndexError(f"{path}: expected the header of an objemb index, found {data[:40]!r}")
    if int(header[1]) != FORMAT:
        raise ArtefactMismatchError(
            f"{folder}: expected index format {FORMAT}, found {int(header[1])}: another version of objemb wrote it"
        )
    body = data[header.end() :]
    found = hashlib.sha256(body).hexdigest()
    if found != header[2].decode("ascii"):
        raise DamagedIndexError(f"{path}: expected SHA-256 {header[2].decode('ascii')}, found {found}")
    return _parsed(path, body)


def _parsed(path: Path, body: bytes) -> Manifest:
    try:
        manifest = Manifest.from_json(json.loads(body))
        _check(manifest)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DamagedIndexError(f"{path}: cannot be understood: {type(error).__name__}: {error}") from error
    return manifest


def _check(manifest: Manifest) -> None:
    """What everything else relies on: every field has its type, and no wrong number leads outside of a file."""
    texts = {k: getattr(manifest, k) for k in ("fingerprint", "created", "updated")}
    for name, value in texts.items():
        if not isinstance(value, str):
            raise TypeError(f"{name}: expected a text, found {type(value).__name__}")
    if not isinstance(manifest.model, dict | None):
        raise TypeError(f"model: expected an object or null, found {type(manifest.model).__name__}")
    if manifest.dtype not in DTYPES:
        raise ValueError(f"dtype: expected one of {DTYPES}, found {manifest.dtype!r}")
    checks.between("dim", checks.whole("dim", manifest.dim), 1, MOST_DIM)
    for name in ("generation", "next_image", "next_file"):
        checks.between(name, checks.whole(name, getattr(manifest, name), 0), 0, 1 << 62)
    width = manifest.dim * int(manifest.dtype[-2:]) // 8
    for segment in manifest.segments:
        checks.between("rows", checks.whole("rows", segment.rows, 0), 0, 1 << 62)
        checks.between("images", checks.whole("images", segment.images, 0), 0, 1 << 62)
        if segment.vectors_file.size != segment.rows * width:
            raise ValueError(f"{segment.name}: expected {segment.rows} rows, found {segment.vectors_file.size} bytes")
    if manifest.deleted and manifest.deleted.size % 8:
        raise ValueError(f"{manifest.deleted.name}: expected whole int64 numbers, found {manifest.deleted.size} bytes")
    if manifest.ann:
        if not isinstance(manifest.ann.kind, str):
            raise TypeError(f"ann: expected a kind, found {manifest.ann.kind!r}")
        if checks.whole("ann", manifest.ann.segments, 0) > len(manifest.segments):
            raise ValueError(f"ann: expected at most {len(manifest.segments)} segments, found {manifest.ann.segments}")
    numbers = [int(file.name.split(".")[0]) for file in manifest.files]
    if numbers and max(numbers) >= manifest.next_file:
        raise ValueError(f"next_file: expected a number above {max(numbers)}, found {manifest.next_file}")
