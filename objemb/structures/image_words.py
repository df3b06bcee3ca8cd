"""The visual words of many images in memory: the database or the queries of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from objemb.structures.fields import points_inside
from objemb.structures.match_kernel import MatchKernel
from objemb.structures.regions import Regions
from objemb.structures.words import VisualWords
from objemb.types import Float32Array, Int64Array

#: Bytes per residual for its row number, and bytes per row for its factor.
ROW_BYTES = 4
#: Bytes per stored local feature for its word and its two coordinates.
PLACE_BYTES = 8


@dataclass(frozen=True, eq=False)
class ImageWords:
    """The counterpart of :class:`~objemb.structures.ImageRows` for visual words.

    Attributes:
        images: Ids of the images.
        described: The words of the images that have rows, by position in ``images``, in ascending order.
        dim: Length of the residuals.
        kernel: The kernel that compares them.
    """

    images: tuple[str, ...]
    described: Mapping[int, VisualWords]
    dim: int
    kernel: MatchKernel

    @staticmethod
    def of(described: Mapping[int, VisualWords], dim: int, kernel: MatchKernel, images: Sequence[str]) -> ImageWords:
        """Create from the words of some of the images, by position in ``images``, in any order."""
        return ImageWords(tuple(images), dict(sorted(described.items())), dim, kernel)

    @cached_property
    def items(self) -> Int64Array:
        """int64 ``(R,)``: for each row, the position of its image in ``images``."""
        numbers = np.array(list(self.described), dtype=np.int64)
        return np.repeat(numbers, [len(words) for words in self.described.values()])

    @cached_property
    def starts(self) -> Int64Array:
        """int64 ``(images + 1,)``: first row of each image, followed by the number of rows."""
        return np.searchsorted(self.items, np.arange(len(self.images) + 1)).astype(np.int64)

    @cached_property
    def boxes(self) -> Float32Array:
        """float32 ``(R, 4)``: the box of each row, xyxy in original pixels."""
        return np.concatenate(
            [np.zeros((0, 4), np.float32), *(words.regions.boxes for words in self.described.values())]
        )

    @cached_property
    def sizes(self) -> Int64Array:
        """int64 ``(R, 2)``: height and width of the original photo of each row."""
        sizes = np.array([words.regions.size for words in self.described.values()], np.int64).reshape(-1, 2)
        return np.repeat(sizes, [len(words) for words in self.described.values()], axis=0)

    def words(self, number: int) -> VisualWords:
        """The words of an image by its position in ``images``; possibly without rows."""
        stored = self.described.get(number)
        if stored is not None:
            return stored
        numbers, floats = np.zeros(0, np.int64), np.zeros(0, np.float32)
        none = np.zeros((0, self.dim), np.float32)
        return VisualWords(
            self.images[number],
            Regions.empty((1, 1)),
            self.dim,
            numbers,
            numbers.astype(np.int32),
            np.packbits(none > 0, axis=1) if self.kernel.binary else none,
            floats,
            floats,
        )

    @property
    def count(self) -> int:
        """Total number of residuals."""
        return sum(len(words.words) for words in self.described.values())

    @property
    def nbytes(self) -> int:
        """Bytes of the stored data: residuals with their row numbers, factors of rows, and places of features."""
        return sum(_bytes(words) for words in self.described.values())


def _bytes(words: VisualWords) -> int:
    inverted = int(words.residuals.nbytes) + ROW_BYTES * (len(words.words) + len(words))
    if words.places is None:
        return inverted
    # the places are those of the whole photo; a box has those inside it
    count = int(points_inside(words.places.points, words.regions.boxes).any(axis=0).sum())
    return inverted + count * (int(words.places.codes.shape[1]) + PLACE_BYTES)
