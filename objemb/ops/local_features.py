"""Local features of photos, and which of two photos match."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from objemb.types import Float32Array, Int64Array


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """Points of an image with a vector each.

    Attributes:
        points: float32 ``(N, 2)``, x and y in original pixels.
        vectors: float32 ``(N, D)``, unit vectors.
    """

    points: Float32Array
    vectors: Float32Array

    def __len__(self) -> int:
        return len(self.points)

    def within(self, box: tuple[float, float, float, float]) -> LocalFeatures:
        """Those in a box, xyxy."""
        x1, y1, x2, y2 = box
        x, y = self.points.T
        inside = (x >= x1) & (x <= x2) & (y >= y1) & (y <= y2)
        return LocalFeatures(self.points[inside], self.vectors[inside])


def matched(first: LocalFeatures, second: LocalFeatures, ratio: float) -> Int64Array:
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
