"""The rows of an index at an address: one for each box, as Arrow tables, and their conversion from and to images.

==============  ====================  ====================================================================
``image``       string                id of the photo
``number``      int64                 grows with every image that is added: the order of images, and of ties
``box``         int32                 position of the box in the photo, from 0; -1 for a photo without boxes
``boxes``       int32                 how many the photo has, so that half a photo is recognised
``x1`` ... ``y2``  float32            the box, in original pixels
``score``       float32               of the detector
``label``       string or null        name of its class
``height``      int32                 size of the photo, in pixels
``width``       int32                 likewise
``stamp``       string or null        of the photo
``metadata``    string                JSON object
``vector``      float32, D per row    of unit length, or zero
==============  ====================  ====================================================================
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from objemb.checks import DamagedIndexError
from objemb.index.filters.columns import NOTHING, type_of
from objemb.index.storage import tables
from objemb.index.storage.snapshot import StoredImage
from objemb.index.storage.tables import Entry
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.structures import Described, RegionDescriptors, Regions, Scalar
from objemb.types import AnyArray, Float32Array

#: What a row says of its photo and its box, without its vector.
COLUMNS = (
    *("image", "number", "box", "boxes", "x1", "y1", "x2", "y2", "score", "label"),
    *("height", "width", "stamp", "metadata"),
)
#: The coordinates of a box.
CORNERS = ("x1", "y1", "x2", "y2")
#: ``box`` of the only row of a photo without boxes.
NO_BOX = -1


def row_schema(dim: int) -> pa.Schema:
    """The Arrow schema of rows with vectors of length ``dim``."""
    types = {"image": pa.string(), "number": pa.int64(), "label": pa.string(), "stamp": pa.string()}
    types |= {"metadata": pa.string(), **dict.fromkeys((*CORNERS, "score"), pa.float32())}
    fields = [pa.field(name, types.get(name, pa.int32()), name in ("label", "stamp")) for name in COLUMNS]
    return pa.schema([*fields, pa.field("vector", pa.list_(pa.float32(), dim), nullable=False)])


def empty_rows(dim: int, columns: Sequence[str]) -> pa.Table:
    """No rows with some columns."""
    return row_schema(dim).empty_table().select(list(columns))


def new_photo(described: Described, number: int, stamp: str | None, schema: UnitVectors) -> Entry:
    """Check an image that is to be stored, and copy it.

    Raises:
        ArtefactMismatchError: They are not vectors of the schema's length.
        ValueError: A value cannot be stored: a vector that has not unit length, or a text that is not valid Unicode or
            contains the character NUL, which databases refuse.
    """
    texts = [described.image, stamp, *described.regions.label_names, *described.metadata]
    for text in [*texts, *(value for value in described.metadata.values() if isinstance(value, str))]:
        _check_text(described.image, text)
    return tables.entry(number, described, stamp, schema)


def rows_of(photos: Sequence[Entry], dim: int) -> pa.Table:
    """The rows of images that :func:`new_photo` has checked, in their order."""
    counts = np.array([len(photo.boxes) for photo in photos], np.int64)
    rows = np.maximum(1, counts)
    at = np.repeat(np.arange(len(photos)), rows)
    order = np.arange(len(at)) - np.repeat(np.cumsum(rows) - rows, rows)
    # a photo without boxes has one row
    boxes = np.concatenate([photo.boxes if len(photo.boxes) else np.zeros((1, 4), np.float32) for photo in photos])
    scores = [photo.scores if len(photo.boxes) else np.zeros(1, np.float32) for photo in photos]
    vectors = [p.columns["vectors"] if len(p.boxes) else np.zeros((1, dim), np.float32) for p in photos]
    columns: dict[str, object] = {
        "image": pa.array([photo.id for photo in photos], pa.string()).take(at),
        "number": np.array([photo.number for photo in photos], np.int64)[at],
        "box": np.where(counts[at] > 0, order, NO_BOX).astype(np.int32),
        "boxes": counts[at].astype(np.int32),
        **{name: boxes[:, place].astype(np.float32) for place, name in enumerate(CORNERS)},
        "score": np.concatenate(scores).astype(np.float32),
        "label": pa.array([label for photo in photos for label in photo.labels or [None]], pa.string()),
        "height": np.array([photo.size[0] for photo in photos], np.int32)[at],
        "width": np.array([photo.size[1] for photo in photos], np.int32)[at],
        "stamp": pa.array([photo.stamp for photo in photos], pa.string()).take(at),
        "metadata": pa.array([photo.metadata for photo in photos], pa.string()).take(at),
        "vector": pa.FixedSizeListArray.from_arrays(np.concatenate(vectors).reshape(-1), dim),
    }
    return pa.table(columns, schema=row_schema(dim))


def described_of(rows: pa.Table) -> RegionDescriptors:
    """The image that rows hold: all those of one image, with vectors, ordered by box."""
    first = {name: rows[name][0].as_py() for name in ("image", "box", "height", "width", "metadata")}
    if first["box"] == NO_BOX:
        rows = rows[:0]
    labels = rows["label"].to_pylist()
    classes = sorted({label for label in labels if label is not None})
    regions = Regions(
        corners(rows),
        (first["height"], first["width"]),
        numbers(rows, "score"),
        np.array([-1 if label is None else classes.index(label) for label in labels], np.int64),
        tuple(classes),
    )
    return RegionDescriptors(first["image"], regions, vectors_of(rows), metadata_of(first["metadata"]))


def stored_images(rows: pa.Table) -> Iterator[StoredImage]:
    """The images of rows that are whole photos, ordered by image, each once."""
    columns = (rows[name].to_pylist() for name in ("image", "stamp", "metadata", "box"))
    for image, stamp, metadata, box in zip(*columns, strict=True):
        if box <= 0:
            yield StoredImage(image, stamp, metadata_of(metadata))


def whole_photos(rows: pa.Table) -> pa.Table:
    """The rows of the newest whole version of each image, by number, image and box.

    A store may show rows of an older version of a photo, or a part of a newer one, while the photo is replaced: of each
    image, the largest number counts of which all boxes are there.

    Args:
        rows: All rows of some images, with at least ``image``, ``number``, ``box`` and ``boxes``.
    """
    if not rows.num_rows:
        return rows
    ordered = rows.sort_by([(name, "ascending") for name in ("number", "image", "box")])
    order = numbers(ordered, "number")
    images = ordered["image"].combine_chunks().dictionary_encode().indices.to_numpy(zero_copy_only=False)
    starts = np.flatnonzero((np.diff(order, prepend=order[0] - 1) != 0) | (np.diff(images, prepend=-1) != 0))
    lengths = np.diff(starts, append=len(order))
    whole = lengths == np.maximum(1, numbers(ordered, "boxes")[starts])
    newest = {int(images[start]): at for at, start in enumerate(starts.tolist()) if whole[at]}
    if len(newest) == len(starts):
        return ordered
    kept = np.zeros(len(starts), bool)
    kept[list(newest.values())] = True
    return ordered.filter(pa.array(np.repeat(kept, lengths)))


def numbers(rows: pa.Table, column: str) -> AnyArray:
    """A column of numbers as an array."""
    values: AnyArray = rows[column].to_numpy()
    return values


def corners(rows: pa.Table) -> Float32Array:
    """The boxes: float32 ``(n, 4)``."""
    return np.stack([numbers(rows, name) for name in CORNERS], axis=1).astype(np.float32, copy=False)


def vectors_of(rows: pa.Table) -> Float32Array:
    """The vectors: float32 ``(n, D)``."""
    vectors = rows["vector"].combine_chunks()
    dim = vectors.type.list_size
    flat: Float32Array = vectors.flatten().to_numpy(zero_copy_only=False)
    return flat.reshape(-1, dim).astype(np.float32, copy=False)


def metadata_of(text: str) -> dict[str, Scalar]:
    """Metadata from JSON."""
    return tables.metadata_from_bytes(text.encode())


def value_types(metadata: Sequence[str]) -> dict[str, set[str]]:
    """The types of the values of each metadata column, of texts of JSON."""
    types: dict[str, set[str]] = {}
    for text in dict.fromkeys(metadata):
        for key, value in metadata_of(text).items():
            kept = types.setdefault(key, set())
            if value is not None and value == value and type_of(value) != NOTHING:
                kept.add(type_of(value))
    return types


def merged_types(known: Mapping[str, frozenset[str]], more: Mapping[str, set[str]]) -> dict[str, frozenset[str]]:
    """Types of columns of two sources."""
    return {key: known.get(key, frozenset()) | more.get(key, set()) for key in {*known, *more}}


def _check_text(image: str, text: str | None) -> None:
    if text is None:
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"image {image!r}: expected text that is valid Unicode, which databases need, found {text!r}"
        ) from error
    if "\0" in text:
        raise ValueError(
            f"image {image!r}: expected text without the character NUL, which databases refuse, found {text!r}"
        )


def header_json(text: str, name: str, where: object) -> object:
    """A text of a header, decoded. Raises ``DamagedIndexError``."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise DamagedIndexError(f"{where}: expected JSON as {name!r} of its header, found {text[:40]!r}") from error
