"""The visual words of an image with the residuals of its local features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np

from objemb import checks
from objemb.structures.descriptors import RegionDescriptors
from objemb.structures.fields import Box, Index, Scalar, checked_id, frozen_metadata, points_inside, row_numbers
from objemb.structures.regions import Regions
from objemb.types import BoolArray, Float32Array, Int32Array, Int64Array, Uint8Array


@dataclass(frozen=True, eq=False)
class WordPlaces:
    """Positions and words of the local features of an image, for localisation and spatial verification.

    Attributes:
        words: int32 ``(F,)``, the nearest word of each feature.
        points: float32 ``(F, 2)``, x and y of the centres in original pixels.
        codes: uint8 ``(F, ceil(D / 8))``, the signs of the feature's residual to its word, packed by ``np.packbits``.
    """

    words: Int32Array
    points: Float32Array
    codes: Uint8Array

    def __post_init__(self) -> None:
        count = len(checks.shape("WordPlaces.words", self.words, (None,)))
        checks.finite("WordPlaces.points", checks.shape("WordPlaces.points", self.points, (count, 2)))
        checks.shape("WordPlaces.codes", self.codes, (count, None))
        for name, dtype in (("words", np.int32), ("points", np.float32), ("codes", np.uint8)):
            if getattr(self, name).dtype != dtype:
                raise TypeError(
                    f"WordPlaces.{name}: expected {np.dtype(dtype).name}, found {getattr(self, name).dtype}"
                )
        if count and int(self.words.min()) < 0:
            raise ValueError(f"WordPlaces.words: expected numbers from 0, found {int(self.words.min())}")

    def __len__(self) -> int:
        return len(self.words)

    def inside(self, box: Box) -> WordPlaces:
        """The features whose centres lie in a box ``(x1, y1, x2, y2)``, in original pixels."""
        return self[points_inside(self.points, np.array([box], np.float32))[0]]

    def __getitem__(self, kept: BoolArray | Int64Array) -> WordPlaces:
        """Some of the features, by a mask ``(n,)`` or by their numbers."""
        return WordPlaces(self.words[kept], self.points[kept], self.codes[kept])


@dataclass(frozen=True, eq=False)
class VisualWords:
    """The visual words of one image, for each row of an index: the input of a match kernel such as ASMK.

    The kernel of two rows X and Y is ``scale_X * scale_Y * sum over common words of weight * sigma(<u, v>)``, with
    their residuals u and v in that word (Tolias, Avrithis and Jegou, "Image search with selective match kernels", IJCV
    2016, equations 4 to 9). The weight is that of X, the query; sigma belongs to the index.

    Attributes:
        image: The id of the image.
        regions: The N boxes, one per row. Rows may have no words: if all words of an image are in one row, its other
            boxes are the candidates for localising a match.
        dim: Length D of the residuals.
        rows: int64 ``(M,)``, ascending: the row of each word.
        words: int32 ``(M,)``, ascending within a row without duplicates.
        residuals: uint8 ``(M, ceil(D / 8))``, the signs of the residuals packed by ``np.packbits`` (bit 1 for a number
            above 0; padding bits are 0); or float32 ``(M, D)``, unit vectors.
        weights: float32 ``(M,)``, the factor of each word's similarity, such as its squared idf.
        scales: float32 ``(N,)``, the factor of each row, such as ``1 / sqrt(number of words)``.
        places: Positions of the local features; None if they are not stored.
        metadata: Metadata of the image from its source, by column.

    Raises:
        ValueError, TypeError: Shapes or dtypes do not match, or words are out of order.
    """

    image: str
    regions: Regions
    dim: int
    rows: Int64Array
    words: Int32Array
    residuals: Uint8Array | Float32Array
    weights: Float32Array
    scales: Float32Array
    places: WordPlaces | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_id("VisualWords.image", self.image)
        object.__setattr__(self, "metadata", frozen_metadata("VisualWords.metadata", self.metadata))
        checks.whole("VisualWords.dim", self.dim)
        count = len(checks.shape("VisualWords.words", self.words, (None,)))
        width = -(-self.dim // 8) if self.residuals.dtype == np.uint8 else self.dim
        for name, array, shape, dtypes in (
            ("rows", self.rows, (count,), (np.int64,)),
            ("words", self.words, (count,), (np.int32,)),
            ("residuals", self.residuals, (count, width), (np.uint8, np.float32)),
            ("weights", self.weights, (count,), (np.float32,)),
            ("scales", self.scales, (len(self.regions),), (np.float32,)),
        ):
            if array.dtype not in dtypes:
                wanted = " or ".join(np.dtype(d).name for d in dtypes)
                raise TypeError(f"VisualWords.{name}: expected {wanted}, found {array.dtype}")
            checks.finite(f"VisualWords.{name}", checks.shape(f"VisualWords.{name}", array, shape))
        if not count:
            return
        if int(self.rows[0]) < 0 or int(self.rows.max()) >= len(self.regions) or int(self.words.min()) < 0:
            raise ValueError(
                f"VisualWords.rows: expected rows from 0 to {len(self.regions) - 1} and words from 0, found rows "
                f"{int(self.rows.min())} to {int(self.rows.max())}, words from {int(self.words.min())}"
            )
        steps, same_row = np.diff(self.rows), np.diff(self.rows) == 0
        if (steps < 0).any() or (np.diff(self.words)[same_row] <= 0).any():
            raise ValueError("VisualWords.words: expected ascending words within ascending rows, found others")

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.regions)

    def __getitem__(self, index: Index) -> VisualWords:
        """The rows that :meth:`Regions.__getitem__` would select; ``places`` stay those of the image."""
        numbers = row_numbers(index, len(self))
        parts = [np.arange(*np.searchsorted(self.rows, [row, row + 1])) for row in numbers]
        picked = np.concatenate([np.zeros(0, np.int64), *parts])
        return VisualWords(
            self.image,
            self.regions[numbers],
            self.dim,
            np.repeat(np.arange(len(numbers), dtype=np.int64), [len(part) for part in parts]),
            self.words[picked],
            self.residuals[picked],
            self.weights[picked],
            self.scales[numbers],
            self.places,
            self.metadata,
        )

    def __iter__(self) -> Iterator[VisualWords]:
        return (self[row] for row in range(len(self)))

    @property
    def binary(self) -> bool:
        """Whether the residuals are signs."""
        return self.residuals.dtype == np.uint8


#: Types of the rows that an index stores, and of queries.
Described: TypeAlias = RegionDescriptors | VisualWords
