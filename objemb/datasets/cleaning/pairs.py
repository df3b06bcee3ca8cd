"""Whether two photos show the same thing: their features agree on an affine map."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from objemb.datasets.cleaning.settings import CleaningSettings
from objemb.ops.feature_matching import nearest_pairs
from objemb.ops.opencv import agreeing
from objemb.structures import LocalFeatures
from objemb.types import Float32Array, Float64Array, Int64Array

#: Photos on each side of a tile of pairs: two sides of features are in memory at a time.
TILE = 32
#: Bounds on the lengths to which an affine map takes unit vectors. Maps beyond them take a photo to a line or a point,
#: on which features of unrelated photos agree by chance.
STRETCH = 8.0
#: Largest ratio of these lengths: about that of a plane that is turned by 75 degrees.
SQUASH = 4.0


@dataclass(frozen=True, eq=False)
class VerifiedPairs:
    """Pairs of photos that agree on an affine map.

    Attributes:
        photos: int64 ``(E, 2)``: numbers of the two photos, the lower one first.
        inliers: int64 ``(E,)``: features that agree.
        affines: float64 ``(E, 2, 3)``: maps from the first photo to the second one, in original pixels.
        boxes: float32 ``(E, 2, 4)``: boxes around the inliers in both photos, xyxy in original pixels.
    """

    photos: Int64Array
    inliers: Int64Array
    affines: Float64Array
    boxes: Float32Array

    def __len__(self) -> int:
        return len(self.photos)

    @staticmethod
    def empty() -> VerifiedPairs:
        """No pairs."""
        return VerifiedPairs(
            np.zeros((0, 2), np.int64),
            np.zeros(0, np.int64),
            np.zeros((0, 2, 3)),
            np.zeros((0, 2, 4), np.float32),
        )

    @staticmethod
    def cat(parts: Sequence[VerifiedPairs]) -> VerifiedPairs:
        """Concatenate pairs of the same photos."""
        parts = [VerifiedPairs.empty(), *parts]
        return VerifiedPairs(
            np.concatenate([part.photos for part in parts]),
            np.concatenate([part.inliers for part in parts]),
            np.concatenate([part.affines for part in parts]),
            np.concatenate([part.boxes for part in parts]),
        )

    def of(self, rows: Int64Array) -> VerifiedPairs:
        """Some of the pairs, by numbers or by a mask."""
        return VerifiedPairs(self.photos[rows], self.inliers[rows], self.affines[rows], self.boxes[rows])


@dataclass(frozen=True, eq=False)
class Agreement:
    """What two photos agree on.

    Attributes:
        inliers: Number of features that agree; features at one point count once.
        affine: float64 ``(2, 3)``, from the first photo to the second one in original pixels; None of too few.
        first, second: float32 ``(n, 2)``: the agreeing points in both photos.
        boxes: float32 ``(2, 4)``: boxes around the squares of the agreeing features in both photos, xyxy in original
            pixels. Around their centres alone, boxes would be too small.
    """

    inliers: int
    affine: Float64Array | None
    first: Float32Array
    second: Float32Array
    boxes: Float32Array


def match_photos(first: LocalFeatures, second: LocalFeatures, settings: CleaningSettings) -> Agreement:
    """Match two photos: nearest neighbours in both directions, clear ones, that agree on an affine map (RANSAC).

    RANSAC runs only where there are ``least`` matches, since fewer cannot lead to a pair that counts.
    """
    none = np.zeros((0, 2), np.float32)
    nothing = Agreement(0, None, none, none, np.zeros((2, 4), np.float32))
    pairs = nearest_pairs(first, second, settings.ratio, mutual=True)
    if len(pairs) < settings.least:
        return nothing
    here, there = first.points[pairs[:, 0]], second.points[pairs[:, 1]]
    affine, inside = agreeing(here, there, settings.tolerance * max(second.size))
    if affine is None or not _is_plausible(affine):
        return nothing
    here, there = here[inside], there[inside]
    count = min(_distinct(here), _distinct(there))
    boxes = np.stack([_around(first[pairs[inside, 0]]), _around(second[pairs[inside, 1]])])
    return Agreement(count, affine if count >= settings.least else None, here, there, boxes)


def _around(features: LocalFeatures) -> Float32Array:
    """The box around at least one feature, float32 ``(4,)``."""
    squares = features.boxes
    return np.concatenate([squares[:, :2].min(axis=0), squares[:, 2:].max(axis=0)])


def _is_plausible(affine: Float64Array) -> bool:
    """Whether a map keeps the orientation and is no collapse; a photo that was mirrored does not match at all."""
    linear = affine[:, :2]
    longest, shortest = np.linalg.svd(linear, compute_uv=False)
    return bool(
        np.linalg.det(linear) > 0 and longest <= STRETCH and shortest >= 1 / STRETCH and longest <= SQUASH * shortest
    )


def _distinct(points: Float32Array) -> int:
    """Number of points that differ by a pixel; SIFT has several features at a point with several orientations."""
    return len(np.unique(points.round(), axis=0))


def pair_tiles(count: int, pairs: Int64Array | None = None) -> Iterator[Int64Array]:
    """Pairs of photos, grouped so that each group has pairs of at most twice :data:`TILE` photos.

    Args:
        count: Number of photos.
        pairs: int64 ``(P, 2)``, the lower number first, each once; None for all pairs.

    Yields:
        int64 ``(n, 2)``, n at least 1.
    """
    if pairs is None:
        for low in range(0, count, TILE):
            for high in range(low, count, TILE):
                first, second = np.meshgrid(
                    np.arange(low, min(low + TILE, count)), np.arange(high, min(high + TILE, count)), indexing="ij"
                )
                tile = np.stack([first[first < second], second[first < second]], axis=1)
                if len(tile):
                    yield tile
        return
    tiles = pairs // TILE
    order = np.lexsort((pairs[:, 1], pairs[:, 0], tiles[:, 1], tiles[:, 0]))
    pairs, tiles = pairs[order], tiles[order]
    borders = np.flatnonzero((np.diff(tiles, axis=0) != 0).any(axis=1)) + 1
    yield from (part for part in np.split(pairs, borders) if len(part))


def candidate_pairs(vectors: Float32Array, count: int) -> Int64Array:
    """Pairs of each photo with its most similar ones.

    Args:
        vectors: float32 ``(N, D)``, unit vectors.
        count: Number of partners of each photo.

    Returns:
        int64 ``(P, 2)``, the lower number first, each pair once, in ascending order.
    """
    total, count = len(vectors), min(count, len(vectors) - 1)
    if count < 1:
        return np.zeros((0, 2), np.int64)
    partners = []
    for start in range(0, total, 1024):
        rows = np.arange(start, min(start + 1024, total))
        similar = vectors[rows] @ vectors.T
        similar[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argpartition(-similar, count - 1, axis=1)[:, :count]
        partners.append(np.stack([np.repeat(rows, count), nearest.ravel()], axis=1))
    return np.unique(np.sort(np.concatenate(partners), axis=1), axis=0).astype(np.int64)
