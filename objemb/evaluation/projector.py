"""Vectors with thumbnails as files that TensorBoard's embedding projector shows."""

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
#: Side of a thumbnail in pixels, and the largest side of the picture that holds them all: browsers refuse larger ones.
THUMBNAIL, LARGEST_SPRITE = 64, 8192
#: Most vectors of an embedding: beyond it, thumbnails would not fit into one picture.
MOST = (LARGEST_SPRITE // THUMBNAIL) ** 2
#: Colour of a missing thumbnail, RGB.
BLANK = (150, 150, 150)


@dataclass(frozen=True, eq=False)
class Embedding:
    """Vectors with what is known of each.

    Attributes:
        name: As TensorBoard shows it; also the folder of its files.
        vectors: float32 ``(N, D)``, N at least 1 and at most :data:`MOST`.
        labels: Per column N texts; TensorBoard colours and searches by them.
        thumbnails: N pictures, or None where there is none to show.
    """

    name: str
    vectors: Float32Array
    labels: dict[str, Sequence[str]]
    thumbnails: Sequence[Image.Image | None]

    def __post_init__(self) -> None:
        checks.between("Embedding.vectors: number", len(self.vectors), 1, MOST)
        for name, values in {**self.labels, "thumbnails": self.thumbnails}.items():
            if len(values) != len(self.vectors):
                raise ValueError(f"{name}: expected {len(self.vectors)}, one a vector, found {len(values)}")


def write_embeddings(folder: str | Path, embeddings: Sequence[Embedding]) -> Path:
    """Write a folder for ``tensorboard --logdir FOLDER``; files of the same names are replaced.

    ::

        FOLDER/projector_config.pbtxt       which embeddings there are
               NAME/vectors.tsv             a line each, numbers between tabs
               NAME/labels.tsv              a heading and a line each
               NAME/thumbnails.png          the pictures, row by row in a square

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
    """All thumbnails in one square picture, row by row, each brought into a square of :data:`THUMBNAIL` pixels."""
    side = max(1, math.ceil(math.sqrt(len(thumbnails))))
    whole = Image.new("RGB", (side * THUMBNAIL, side * THUMBNAIL), "white")
    for number, one in enumerate(thumbnails):
        row, column = divmod(number, side)
        whole.paste(_square(one), (column * THUMBNAIL, row * THUMBNAIL))
    return whole


def evenly(count: int, most: int) -> Int64Array:
    """At most ``most`` numbers from 0 to ``count - 1``, in even steps."""
    if count <= most:
        return np.arange(count)
    return np.linspace(0, count - 1, most).round().astype(np.int64)


def box_text(box: ArrayLike) -> str:
    """``x1 y1 x2 y2`` in whole pixels."""
    return " ".join(str(round(float(v))) for v in np.asarray(box))


def _square(thumbnail: Image.Image | None) -> Image.Image:
    """A thumbnail with its proportions on a white square."""
    square = Image.new("RGB", (THUMBNAIL, THUMBNAIL), "white" if thumbnail is not None else BLANK)
    if thumbnail is not None:
        small = thumbnail.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL))
        square.paste(small, ((THUMBNAIL - small.width) // 2, (THUMBNAIL - small.height) // 2))
    return square


def _labels(embedding: Embedding) -> str:
    """The table of labels. With a single column, TensorBoard expects no heading."""
    lines = [tuple(embedding.labels)] if len(embedding.labels) > 1 else []
    lines += zip(*embedding.labels.values(), strict=True)
    return "".join("\t".join(_cell(value) for value in line) + "\n" for line in lines)


def _cell(text: str) -> str:
    """A text that no tab or line break ends; TensorBoard takes an empty one for a missing column."""
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
    """A name that a file system, a URL and a text in quotes can hold."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_.=") else "_" for c in name).strip(".") or "_"
