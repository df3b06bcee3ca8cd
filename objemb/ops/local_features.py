"""Local features of photos, and the affine maps that agree on them: what looks at OpenCV's geometry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Of RANSAC: draws at most, and how certain it has to be to stop earlier.
TRIALS, CERTAINTY = 1000, 0.999


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """Points of an image with a vector each.

    Attributes:
        points: float32 ``(N, 2)``, x and y in original pixels.
        vectors: float32 ``(N, D)``, unit vectors.
    """

    points: NDArray[np.float32]
    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.points)

    def within(self, box: tuple[float, float, float, float]) -> LocalFeatures:
        """Those in a box, xyxy."""
        x1, y1, x2, y2 = box
        x, y = self.points.T
        inside = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
        return LocalFeatures(self.points[inside], self.vectors[inside])


def root_sift(grey: NDArray[np.uint8], scale: tuple[float, float], count: int) -> LocalFeatures:
    """SIFT features, of which square roots are compared (Arandjelovic and Zisserman, "Three things everyone should
    know to improve object retrieval", CVPR 2012).

    Args:
        grey: uint8 ``(h, w)``.
        scale: ``(y, x)``, pixels of ``grey`` per original pixel.
        count: The strongest so many.

    Raises:
        ImportError: OpenCV is not installed.
    """
    found, vectors = _cv2().SIFT_create(nfeatures=count).detectAndCompute(np.ascontiguousarray(grey), None)
    if vectors is None:
        return LocalFeatures(np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32))
    points = np.asarray([point.pt for point in found], dtype=np.float32)
    points = (points / np.asarray([scale[1], scale[0]])).astype(np.float32)
    sums = vectors.sum(axis=1, keepdims=True)
    return LocalFeatures(points[:count], np.sqrt(vectors / np.maximum(sums, 1e-12))[:count].astype(np.float32))


def matched(first: LocalFeatures, second: LocalFeatures, ratio: float) -> NDArray[np.int64]:
    """Pairs ``(n, 2)`` of features that are nearest neighbours, clearly: numbers in ``first`` and in ``second``.

    The nearest one of ``second`` has to be nearer than ``ratio`` times the second nearest (Lowe 2004).
    """
    if not len(first) or len(second) < 2:
        return np.zeros((0, 2), np.int64)
    products = first.vectors @ second.vectors.T
    nearest = np.argpartition(-products, 1, axis=1)[:, :2]
    pairs = np.take_along_axis(products, nearest, axis=1)
    order = np.argsort(-pairs, axis=1)
    nearest, pairs = np.take_along_axis(nearest, order, 1), np.take_along_axis(pairs, order, 1)
    distances = np.sqrt(np.maximum(0, 2 - 2 * pairs))
    clear = distances[:, 0] < ratio * distances[:, 1]
    return np.stack([np.flatnonzero(clear), nearest[clear, 0]], axis=1)


def agreeing(
    first: NDArray[np.float32], second: NDArray[np.float32], tolerance: float
) -> tuple[NDArray[np.float64] | None, int]:
    """The affine map on which most pairs of points agree, by RANSAC, and how many do.

    The same points always give the same map: OpenCV draws from a generator of its own with a fixed seed.

    Args:
        first: ``(n, 2)``, n at least 3.
        second: ``(n, 2)``, where the map takes them.
        tolerance: Pixels by which a point may miss.

    Returns:
        float64 ``(2, 3)`` or None, and the number of pairs.

    Raises:
        ImportError: OpenCV is not installed.
    """
    cv2 = _cv2()
    found, inliers = cv2.estimateAffine2D(
        first, second, method=cv2.RANSAC, ransacReprojThreshold=tolerance, maxIters=TRIALS, confidence=CERTAINTY
    )
    return (None, 0) if found is None else (found, int(inliers.sum()))


def _cv2() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise ImportError("local features need OpenCV: pip install 'objemb[methods]'") from error
    return cv2
