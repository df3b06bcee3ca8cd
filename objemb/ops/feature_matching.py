"""Pairs of local features of two images that are nearest neighbours."""

from __future__ import annotations

import numpy as np

from objemb.structures import LocalFeatures
from objemb.types import Int64Array


def nearest_pairs(first: LocalFeatures, second: LocalFeatures, ratio: float, *, mutual: bool = False) -> Int64Array:
    """Pairs of features whose nearest neighbour is clearly nearer than the next one.

    Args:
        first: Features whose neighbours are looked for, of unit length.
        second: Features among which they are looked for; fewer than two give no pairs.
        ratio: The nearest one has to be nearer than this share of the distance of the second nearest (Lowe,
            "Distinctive image features from scale-invariant keypoints", IJCV 2004, section 7.1).
        mutual: Whether the feature of ``first`` has to be the nearest one of its neighbour, too.

    Returns:
        int64 ``(n, 2)``: numbers in ``first``, ascending, and in ``second``.
    """
    if not len(first) or len(second) < 2:
        return np.zeros((0, 2), np.int64)
    products = first.vectors @ second.vectors.T
    rows = np.arange(len(first))
    nearest = products.argmax(axis=1)
    best = products[rows, nearest]
    products[rows, nearest] = -np.inf
    next_best = products.max(axis=1)
    products[rows, nearest] = best
    clear = np.sqrt(np.maximum(0, 2 - 2 * best)) < ratio * np.sqrt(np.maximum(0, 2 - 2 * next_best))
    chosen = np.flatnonzero(clear)
    if mutual:
        chosen = chosen[products[:, nearest[chosen]].argmax(axis=0) == chosen]
    return np.stack([chosen, nearest[chosen]], axis=1)
