"""The local features of an image, and the regions that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike

from objemb import checks
from objemb.structures.fields import (
    Index,
    Scalar,
    as_array,
    checked_id,
    checked_size,
    frozen_metadata,
    points_inside,
    row_numbers,
)
from objemb.structures.regions import Regions
from objemb.types import BoolArray, Float32Array, FloatArray, Int64Array


@dataclass(frozen=True, eq=False, init=False)
class LocalFeatures:
    """Points of one image, each with a vector. Zero features are a normal case.

    Attributes are NumPy arrays. They may be given as tensors, which are moved to the CPU; CPU tensors share their
    memory.

    Attributes:
        size: ``(height, width)`` of the original image.
        points: float32 ``(N, 2)``, x and y of the centres in original pixels, inside the image.
        scales: float32 ``(N,)``, above 0: pixels of the network's input (or of a level of a scale space) per original
            pixel. Large objects have features of small scale.
        sides: float32 ``(N,)``, above 0: side of the square from which the feature was computed, in original pixels.
        vectors: float32 ``(N, D)``, of unit length (or zero) unless the extractor states otherwise.
        strengths: float32 ``(N,)``, larger is stronger; the order of top-n selection.
    """

    size: tuple[int, int]
    points: Float32Array
    scales: Float32Array
    sides: Float32Array
    vectors: Float32Array
    strengths: Float32Array

    def __init__(
        self,
        size: tuple[int, int],
        points: ArrayLike,
        vectors: ArrayLike,
        *,
        scales: ArrayLike | None = None,
        sides: ArrayLike | None = None,
        strengths: ArrayLike | None = None,
    ) -> None:
        size = checked_size("LocalFeatures.size", size)
        places = as_array("LocalFeatures.points", points)
        places = places.reshape(0, 2) if places.size == 0 else places
        checks.finite("LocalFeatures.points", checks.shape("LocalFeatures.points", places, (None, 2)))
        limits = np.array([size[1], size[0]])
        outside = np.flatnonzero(((places < 0) | (places > limits)).any(axis=1))
        if len(outside):
            raise ValueError(
                f"LocalFeatures.points: expected points from 0 to {limits.tolist()}, found "
                f"{places[outside[0]].tolist()} ({len(outside)} such points)"
            )
        count = len(places)
        rows = as_array("LocalFeatures.vectors", vectors)
        checks.finite("LocalFeatures.vectors", checks.shape("LocalFeatures.vectors", rows, (count, None)))
        columns = {"scales": scales, "sides": sides, "strengths": strengths}
        numbers = {
            name: np.ones(count, np.float32) if value is None else as_array(f"LocalFeatures.{name}", value)
            for name, value in columns.items()
        }
        for name, column in numbers.items():
            checks.finite(f"LocalFeatures.{name}", checks.shape(f"LocalFeatures.{name}", column, (count,)))
            if name != "strengths" and count and float(column.min()) <= 0:
                raise ValueError(f"LocalFeatures.{name}: expected numbers above 0, found {float(column.min()):g}")
        self._set(size, places, numbers["scales"], numbers["sides"], rows, numbers["strengths"])

    def _set(self, size: tuple[int, int], *columns: FloatArray) -> LocalFeatures:
        """Set fields that are already validated, here or as part of other features."""
        object.__setattr__(self, "size", size)
        for name, column in zip(("points", "scales", "sides", "vectors", "strengths"), columns, strict=True):
            object.__setattr__(self, name, column.astype(np.float32, copy=False))
        return self

    @staticmethod
    def empty(size: tuple[int, int], dim: int) -> LocalFeatures:
        """No features, with vectors of length ``dim``."""
        return LocalFeatures(size, (), np.zeros((0, dim), np.float32))

    @staticmethod
    def cat(parts: Sequence[LocalFeatures]) -> LocalFeatures:
        """Concatenate features of the same image.

        Raises:
            ValueError: There are no parts, or their image sizes or vector lengths differ.
        """
        kinds = {(part.size, part.dim) for part in parts}
        if len(kinds) != 1:
            raise ValueError(f"LocalFeatures.cat: expected parts of one image size and length, found {sorted(kinds)}")
        names = ("points", "scales", "sides", "vectors", "strengths")
        columns = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        return object.__new__(LocalFeatures)._set(parts[0].size, *columns)

    def moved(self, by: tuple[float, float], size: tuple[int, int]) -> LocalFeatures:
        """Convert features of a part of an image to the frame of the image.

        Args:
            by: ``(x, y)`` of the part's top left corner in the image, in original pixels.
            size: ``(height, width)`` of the image. Points outside it by rounding are clipped to its edge.
        """
        points = np.clip(self.points + np.array(by, np.float32), 0, np.array([size[1], size[0]], np.float32))
        return object.__new__(LocalFeatures)._set(size, points, self.scales, self.sides, self.vectors, self.strengths)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: Index) -> LocalFeatures:
        """Select features by a number (which gives one feature), a slice, a boolean mask or several numbers."""
        rows = row_numbers(index, len(self))
        columns = (self.points, self.scales, self.sides, self.vectors, self.strengths)
        return object.__new__(LocalFeatures)._set(self.size, *(column[rows] for column in columns))

    @property
    def dim(self) -> int:
        """Length D of the vectors."""
        return int(self.vectors.shape[1])

    @property
    def boxes(self) -> Float32Array:
        """float32 ``(N, 4)``: the squares from which the features were computed, clipped to the image."""
        half = self.sides[:, None] / 2
        limits = np.array([self.size[1], self.size[0]] * 2, np.float32)
        edges: Float32Array = np.concatenate([self.points - half, self.points + half], axis=1).clip(0, limits)
        return edges

    def inside(self, boxes: Float32Array) -> BoolArray:
        """Whether the centre of each feature lies in each box, edges included: bool ``(boxes, N)``.

        Args:
            boxes: float32 ``(n, 4)``, original pixels.
        """
        return points_inside(self.points, np.asarray(boxes, np.float32).reshape(-1, 4))


@dataclass(frozen=True, eq=False)
class RegionFeatures:
    """The regions of one image and its local features: what a describer of local features returns.

    Attributes:
        image: The id of the image.
        regions: The regions; if a describer found them, region 0 is the whole image.
        features: The features of all regions. A feature may belong to several regions, or to none.
        members: int64 ``(P, 2)``: pairs (region, feature of the region), in ascending order without duplicates.
        metadata: Metadata of the image from its source, by column.

    Raises:
        ValueError: Regions and features have different image sizes, or pairs are not in order or name a region or
            feature that does not exist.
    """

    image: str
    regions: Regions
    features: LocalFeatures
    members: Int64Array
    metadata: Mapping[str, Scalar] = field(default_factory=dict)

    def __post_init__(self) -> None:
        checked_id("RegionFeatures.image", self.image)
        object.__setattr__(self, "metadata", frozen_metadata("RegionFeatures.metadata", self.metadata))
        if self.features.size != self.regions.size:
            raise ValueError(
                f"RegionFeatures.features: expected the image size {self.regions.size}, found {self.features.size}"
            )
        checks.shape("RegionFeatures.members", self.members, (None, 2))
        object.__setattr__(self, "members", self.members.astype(np.int64, copy=False))
        most = np.array([len(self.regions), len(self.features)])
        if len(self.members) and (self.members.min() < 0 or (self.members.max(axis=0) >= most).any()):
            raise ValueError(
                f"RegionFeatures.members: expected regions below {most[0]} and features below {most[1]}, found pairs "
                f"from {self.members.min(axis=0).tolist()} to {self.members.max(axis=0).tolist()}"
            )
        flat = self.members[:, 0] * max(1, int(most[1])) + self.members[:, 1]
        if (np.diff(flat) <= 0).any():
            raise ValueError("RegionFeatures.members: expected pairs in ascending order, found others")

    @staticmethod
    def by_position(
        image: str, regions: Regions, features: LocalFeatures, metadata: Mapping[str, Scalar] = MappingProxyType({})
    ) -> RegionFeatures:
        """Assign features to every region that contains their centre."""
        members = np.argwhere(features.inside(regions.boxes)).astype(np.int64)
        return RegionFeatures(image, regions, features, members, metadata)

    def __len__(self) -> int:
        """Number of regions."""
        return len(self.regions)

    def of_region(self, region: int) -> Int64Array:
        """The features of a region: int64 ``(n,)``, ascending numbers in ``features``."""
        first, stop = np.searchsorted(self.members[:, 0], [region, region + 1])
        return self.members[first:stop, 1]
