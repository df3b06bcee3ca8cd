"""The two tables of a segment, and their conversion from and to described images.

Regions of an image are adjacent rows; images and regions are in the order of the internal image numbers. Texts are
UTF-8 bytes (a file name may hold lone surrogates, which Arrow's string type forbids); metadata is one JSON object per
image, so that every value comes back with its type. Extras of the regions are not stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from objemb.checks import DamagedIndexError
from objemb.index.storage.schema import Columns, RowSchema
from objemb.structures import Described, Scalar
from objemb.types import AnyArray, Float32Array

ROWS = pa.schema(
    [
        pa.field("image", pa.int64(), nullable=False),
        pa.field("box", pa.list_(pa.float32(), 4), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("label", pa.dictionary(pa.int32(), pa.binary())),
    ]
)
IMAGES = pa.schema(
    [
        pa.field("image", pa.int64(), nullable=False),
        pa.field("id", pa.large_binary(), nullable=False),
        pa.field("height", pa.int64(), nullable=False),
        pa.field("width", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
        pa.field("stamp", pa.large_binary()),
        pa.field("metadata", pa.large_binary(), nullable=False),
    ]
)


@dataclass(frozen=True)
class Entry:
    """One image to be stored, as a copy, so that the caller may reuse its tensors."""

    number: int
    id: bytes
    size: tuple[int, int]
    stamp: bytes | None
    metadata: bytes
    columns: Columns  # of n rows
    boxes: Float32Array  # (n, 4) float32
    scores: Float32Array  # (n,) float32
    labels: list[bytes | None]


def to_bytes(text: str) -> bytes:
    """UTF-8; lone surrogates survive."""
    return text.encode("utf-8", "surrogatepass")


def to_text(data: bytes | memoryview) -> str:
    """The inverse of :func:`to_bytes`. Raises ``DamagedIndexError`` for invalid bytes."""
    try:
        return str(data, "utf-8", "surrogatepass")
    except UnicodeDecodeError as error:
        raise DamagedIndexError(f"text of an index: expected UTF-8, found {bytes(data[:40])!r}") from error


def metadata_to_bytes(image: str, metadata: Mapping[str, Scalar]) -> bytes:
    """Metadata as JSON. Raises ``ValueError`` for numbers that JSON cannot represent (integers of thousands of
    digits)."""
    try:
        return json.dumps(dict(metadata), separators=(",", ":")).encode("ascii")
    except ValueError as error:
        raise ValueError(f"metadata of {image!r}: expected values that JSON can hold, found {error}") from error


def metadata_from_bytes(data: bytes) -> dict[str, Scalar]:
    """The inverse of :func:`metadata_to_bytes`. Raises ``DamagedIndexError`` for invalid bytes."""
    if data == b"{}":
        return {}
    try:
        metadata = json.loads(data)
    except (ValueError, RecursionError):
        metadata = None
    if not isinstance(metadata, dict) or any(isinstance(v, list | dict) for v in metadata.values()):
        raise DamagedIndexError(f"metadata of an index: expected a JSON object of scalars, found {data[:40]!r}")
    return metadata


def entry(number: int, described: Described, stamp: str | None, schema: RowSchema) -> Entry:
    """Check one described image and convert it for storage.

    Raises:
        ArtefactMismatchError: The rows are of another kind or length than those of the schema.
        ValueError: A value cannot be stored.
    """
    regions = described.regions
    return Entry(
        number=number,
        id=to_bytes(described.image),
        size=regions.size,
        stamp=None if stamp is None else to_bytes(stamp),
        metadata=metadata_to_bytes(described.image, described.metadata),
        columns=schema.encode(described),
        boxes=regions.boxes.copy(),
        scores=regions.scores.copy(),
        labels=[None if name is None else to_bytes(name) for name in regions.label_names],
    )


def tables(entries: Sequence[Entry]) -> tuple[pa.Table, pa.Table]:
    """The table of regions and the table of images of a non-empty batch."""
    counts = [len(e.boxes) for e in entries]
    numbers = np.array([e.number for e in entries], dtype=np.int64)
    boxes = pa.array(np.concatenate([e.boxes for e in entries]).reshape(-1))
    labels = pa.array([label for e in entries for label in e.labels], pa.binary())
    rows = {
        "image": pa.array(np.repeat(numbers, counts)),
        "box": pa.FixedSizeListArray.from_arrays(boxes, 4),
        "score": pa.array(np.concatenate([e.scores for e in entries])),
        "label": labels.dictionary_encode(),
    }
    images = {
        "image": numbers,
        "id": [e.id for e in entries],
        "height": [e.size[0] for e in entries],
        "width": [e.size[1] for e in entries],
        "rows": counts,
        "stamp": [e.stamp for e in entries],
        "metadata": [e.metadata for e in entries],
    }
    return pa.table(rows, schema=ROWS), pa.table(images, schema=IMAGES)


def numbers_of(batch: pa.RecordBatch, column: str) -> AnyArray:
    """A numeric column as an array, without copying; ``(n, 4)`` for boxes."""
    values = batch.column(column)
    in_lists = pa.types.is_fixed_size_list(values.type)
    numbers: AnyArray = (values.flatten() if in_lists else values).to_numpy(zero_copy_only=True)
    return numbers.reshape(-1, values.type.list_size) if in_lists else numbers
