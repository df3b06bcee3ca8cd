"""Rows of vectors and the images that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from objemb.structures.descriptors import RegionDescriptors
from objemb.structures.regions import Regions
from objemb.types import Float32Array, Int64Array


@dataclass(frozen=True, eq=False)
class ImageRows:
    """Vectors of images, any number of rows each: the database or the queries of a search, or the content of an index.

    An image is a unit of retrieval: a photo, or a single boxed object of a photo.

    Attributes:
        images: Ids of the images.
        vectors: float32 ``(R, D)``; may be a memory map.
        items: int64 ``(R,)``, ascending: for each row, the position of its image in ``images``. An image may have no
            rows.
        boxes: float32 ``(R, 4)``, xyxy in original pixels: the region of each row.
        sizes: int64 ``(R, 2)``, height and width of the original photo of each row; None if unknown.

    Raises:
        ValueError: Shapes or dtypes do not match, or ``items`` are not ascending.
    """

    images: Sequence[str]
    vectors: Float32Array
    items: Int64Array
    boxes: Float32Array
    sizes: Int64Array | None = None

    def __post_init__(self) -> None:
        name = type(self).__name__
        if isinstance(self.images, list):
            object.__setattr__(self, "images", tuple(self.images))
        count = len(self.vectors)
        if self.vectors.ndim != 2 or self.vectors.dtype != np.float32:
            found = f"{self.vectors.dtype} {self.vectors.shape}"
            raise ValueError(f"{name}.vectors: expected float32 (R, D), found {found}")
        if self.boxes.shape != (count, 4):
            raise ValueError(f"{name}.boxes: expected shape ({count}, 4), found {self.boxes.shape}")
        if self.items.shape != (count,) or self.items.dtype != np.int64:
            raise ValueError(f"{name}.items: expected int64 ({count},), found {self.items.dtype} {self.items.shape}")
        falling = (self.items[1:] < self.items[:-1]).any()
        if count and (falling or self.items[0] < 0 or self.items[-1] >= len(self.images)):
            raise ValueError(f"{name}.items: expected ascending numbers below {len(self.images)}, found others")
        if self.sizes is not None and self.sizes.shape != (count, 2):
            raise ValueError(f"{name}.sizes: expected shape ({count}, 2), found {self.sizes.shape}")

    @staticmethod
    def from_descriptors(
        described: Mapping[int, RegionDescriptors] | Sequence[RegionDescriptors],
        dim: int,
        images: Sequence[str] | None = None,
    ) -> ImageRows:
        """The rows of described images.

        Args:
            described: The rows of each image, or a mapping from positions in ``images`` to the rows of those images.
            dim: Length of the vectors, needed if there are no rows.
            images: Ids of the images; by default those of the descriptors, which must then be a sequence.
        """
        if isinstance(described, Mapping):
            ordered = sorted(described.items())
            parts = [rows for _, rows in ordered]
            numbers = np.array([number for number, _ in ordered], dtype=np.int64)
        else:
            parts, numbers = list(described), np.arange(len(described), dtype=np.int64)
        lengths = [len(rows) for rows in parts]
        sizes = np.array([rows.regions.size for rows in parts], dtype=np.int64).reshape(-1, 2)
        return ImageRows(
            tuple(rows.image for rows in parts) if images is None else tuple(images),
            np.concatenate([np.zeros((0, dim), np.float32), *(rows.vectors for rows in parts)]),
            np.repeat(numbers, lengths),
            np.concatenate([np.zeros((0, 4), np.float32), *(rows.regions.boxes for rows in parts)]),
            np.repeat(sizes, lengths, axis=0),
        )

    @property
    def dim(self) -> int:
        """Length D of the vectors."""
        return int(self.vectors.shape[1])

    @cached_property
    def starts(self) -> Int64Array:
        """int64 ``(images + 1,)``: first row of each image, followed by the number of rows."""
        return np.searchsorted(self.items, np.arange(len(self.images) + 1)).astype(np.int64)

    def rows_of(self, numbers: Int64Array) -> Int64Array:
        """The row numbers of some images, image by image, int64.

        Args:
            numbers: int64 ``(n,)``, positions in ``images``, in any order.
        """
        first = self.starts[numbers]
        lengths = self.starts[numbers + 1] - first
        return np.repeat(first - (np.cumsum(lengths) - lengths), lengths) + np.arange(lengths.sum())

    def of_images(self, first: int, last: int) -> ImageRows:
        """The images from ``first`` up to, but not including, ``last``; their rows are views."""
        rows = slice(int(self.starts[first]), int(self.starts[last]))
        sizes = None if self.sizes is None else self.sizes[rows]
        return ImageRows(self.images[first:last], self.vectors[rows], self.items[rows] - first, self.boxes[rows], sizes)

    def descriptors(self, number: int) -> RegionDescriptors:
        """The rows of an image by its position in ``images``; possibly none.

        If the size of its photo is unknown, the smallest size that contains the boxes is used.
        """
        rows = slice(int(self.starts[number]), int(self.starts[number + 1]))
        if self.sizes is not None and len(self.sizes[rows]):
            height, width = self.sizes[rows][0].tolist()
        else:
            width, height = np.ceil(self.boxes[rows, 2:]).max(axis=0, initial=1).astype(int).tolist()
        regions = Regions(np.array(self.boxes[rows]), (height, width))
        return RegionDescriptors(self.images[number], regions, np.array(self.vectors[rows]))
