"""Vectors with thumbnails, as files for TensorBoard's embedding projector."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike
from PIL import Image

from objemb import checks
from objemb.disk import replacing, write_whole
from objemb.types import Float32Array, Int64Array

CONFIG, VECTORS, LABELS, SPRITE = "projector_config.pbtxt", "vectors.tsv", "labels.tsv", "thumbnails.png"
#: Side of a thumbnail in pixels, and the largest side of the sprite image of all thumbnails that browsers accept.
THUMBNAIL, LARGEST_SPRITE = 64, 8192
#: Most vectors of an embedding: more thumbnails would not fit into one sprite image.
MAX_VECTORS = (LARGEST_SPRITE // THUMBNAIL) ** 2
#: Colour of a missing thumbnail, RGB.
BLANK = (150, 150, 150)


@dataclass(frozen=True, eq=False)
class Embedding:
    """Vectors with labels and thumbnails.

    Attributes:
        name: Name in TensorBoard, and of the folder of its files.
        vectors: float32 ``(N, D)``, N from 1 to :data:`MAX_VECTORS`.
        labels: N texts for each column; TensorBoard colours and searches by them.
        thumbnails: N pictures, or None for a vector without one.
    """

    name: str
    vectors: Float32Array
    labels: dict[str, Sequence[str]]
    thumbnails: Sequence[Image.Image | None]

    def __post_init__(self) -> None:
        checks.between("Embedding.vectors: number", len(self.vectors), 1, MAX_VECTORS)
        for name, values in {**self.labels, "thumbnails": self.thumbnails}.items():
            if len(values) != len(self.vectors):
                raise ValueError(f"{name}: expected {len(self.vectors)}, one a vector, found {len(values)}")


def write_embeddings(folder: str | Path, embeddings: Sequence[Embedding]) -> Path:
    """Write a folder for ``tensorboard --logdir FOLDER``; files of the same names are replaced.

    ::

        FOLDER/projector_config.pbtxt       the list of embeddings
               NAME/vectors.tsv             a line for each vector, numbers separated by tabs
               NAME/labels.tsv              a header, then a line for each vector
               NAME/thumbnails.png          the sprite image: the thumbnails, row by row in a square

    Returns:
        The configuration file.
    """
    place = Path(folder)
    names = [file_name(e.name) for e in embeddings]
    if len(set(names)) != len(names):
        raise ValueError(f"embeddings: expected different names, found {checks.listed(names)}")
    for name, embedding in zip(names, embeddings, strict=True):
        (place / name).mkdir(parents=True, exist_ok=True)
        with replacing(place / name / VECTORS) as partial:
            np.savetxt(partial, embedding.vectors, fmt="%.6g", delimiter="\t")
        write_whole(place / name / LABELS, _labels(embedding))
        with replacing(place / name / SPRITE) as partial:
            sprite(embedding.thumbnails).save(partial)
    place.mkdir(parents=True, exist_ok=True)
    entries = [_entry(name, e) for name, e in zip(names, embeddings, strict=True)]
    write_whole(place / CONFIG, "".join(entries))
    return place / CONFIG


def sprite(thumbnails: Sequence[Image.Image | None]) -> Image.Image:
    """All thumbnails in one square picture, row by row, each fitted into a square of :data:`THUMBNAIL` pixels."""
    side = max(1, math.ceil(math.sqrt(len(thumbnails))))
    whole = Image.new("RGB", (side * THUMBNAIL, side * THUMBNAIL), "white")
    for number, one in enumerate(thumbnails):
        row, column = divmod(number, side)
        whole.paste(_square(one), (column * THUMBNAIL, row * THUMBNAIL))
    return whole


def evenly(count: int, most: int) -> Int64Array:
    """int64: at most ``most`` numbers from 0 to ``count - 1``, evenly spaced."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)


def box_text(box: ArrayLike) -> str:
    """``x1 y1 x2 y2`` in whole pixels."""
    return " ".join(str(round(float(v))) for v in np.asarray(box))


def _square(thumbnail: Image.Image | None) -> Image.Image:
    """A thumbnail on a white square, with its aspect ratio kept."""
    square = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "white" if thumbnail is not None else BLANK)
    if thumbnail is not None:
        small = thumbnail.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        square.paste(small, ((THUMBNAIL - small.width) // 2, (THUMBNAIL - small.height) // 2))
    return square


def _labels(embedding: Embedding) -> str:
    """The table of labels. With a single column, TensorBoard expects no header."""
    lines = [tuple(embedding.labels)] if len(embedding.labels) > 1 else []
    lines += zip(*embedding.labels.values(), strict=True)
    return "".join("\t".join(_cell(value) for value in line) + "\n" for line in lines)


def _cell(text: str) -> str:
    """A text without tabs and line breaks, and not empty, because TensorBoard would take that for a missing column."""
    return " ".join(text.split()).encode("utf-8", "replace").decode() or "-"


def _entry(name: str, embedding: Embedding) -> str:
    rows, dim = embedding.vectors.shape
    return (
        "embeddings {\n"
        f'  tensor_name: "{name}"\n  tensor_shape: {rows}\n  tensor_shape: {dim}\n'
        f'  tensor_path: "{name}/{VECTORS}"\n  metadata_path: "{name}/{LABELS}"\n'
        f'  sprite {{\n    image_path: "{name}/{SPRITE}"\n'
        f"    single_image_dim: {THUMBNAIL}\n    single_image_dim: {THUMBNAIL}\n  }}\n}}\n"
    )


def file_name(name: str) -> str:
    """A name that is valid in a file system, in a URL and in quotes."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.=") else "_" for c in name).strip(".") or "_"
