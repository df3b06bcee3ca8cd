"""Which local features of two photos match."""

from __future__ import annotations

import numpy as np

from objemb.structures import LocalFeatures
from objemb.types import Int64Array


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
