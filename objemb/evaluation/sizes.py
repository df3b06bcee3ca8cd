"""The size of an object, with one definition for all metrics: the longer side of its box as a share of the longer side
of its photo.

How hard an object is to describe depends on its number of pixels in the network's input. Photos are resized to that
input by their sides, so that this number follows from the share of the side, whatever the size of the photo. For an
input of 512 pixels, the classes end at 48, 96, 192 and 384 pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from objemb.structures import Box
from objemb.types import Float64Array, Int64Array

#: Classes of sizes, with the (exclusive) upper end of their side shares; each starts at the end of the one before.
SIZES = {"<9 %": 0.09375, "9-19 %": 0.1875, "19-38 %": 0.375, "38-75 %": 0.75, ">75 %": 1.0}
#: The classes in names of logged metrics, such as ``AP_9_19``.
SIZE_KEYS = dict(zip(SIZES, ("under_9", "9_19", "19_38", "38_75", "over_75"), strict=True))
#: Name for queries without a box, such as a picture of a product.
WHOLE_PHOTO = "whole photo"
#: The class of an object of unknown size.
UNKNOWN = -1


def side_shares(boxes: ArrayLike, sizes: ArrayLike) -> Float64Array:
    """The longer side of each box as a share of the longer side of its photo.

    Args:
        boxes: float ``(N, 4)``, edges ``(x1, y1, x2, y2)`` in pixels of the photo; NaN where unknown.
        sizes: ``(N, 2)``, height and width of the photo of each box in pixels, or ``(2,)``, of the photo of all.

    Returns:
        float64 ``(N,)``: 0 to 1, NaN where unknown.

    Raises:
        ValueError: The shapes are others, or a photo has no pixels.
    """
    edges, of_photos = np.asarray(boxes, dtype=float), np.asarray(sizes, dtype=float)
    if edges.size == 0:
        edges = edges.reshape(-1, 4)
    if edges.ndim != 2 or edges.shape[1] != 4:
        raise ValueError(f"boxes: expected shape (any, 4), found {edges.shape}")
    if of_photos.shape not in ((2,), (len(edges), 2)):
        raise ValueError(f"sizes: expected shape (2) or ({len(edges)}, 2), found {of_photos.shape}")
    if (of_photos <= 0).any():
        raise ValueError(f"sizes: expected photos of at least one pixel, found {of_photos[of_photos <= 0][0]:g}")
    shares: Float64Array = (edges[:, 2:] - edges[:, :2]).max(axis=1) / of_photos.max(axis=-1)
    return shares


def side_share(box: Box, size: tuple[int, int]) -> float:
    """:func:`side_shares` of one box ``(x1, y1, x2, y2)`` in a photo of ``size`` ``(height, width)``."""
    return float(side_shares([box], size)[0])


def size_classes(shares: ArrayLike) -> Int64Array:
    """int64 ``(N,)``: the index in :data:`SIZES` of the class of each side share; :data:`UNKNOWN` for NaN.

    Args:
        shares: float ``(N,)``, from :func:`side_shares`; the upper end of a class belongs to the next one.
    """
    values = np.asarray(shares, dtype=float)
    classes = np.searchsorted(list(SIZES.values())[:-1], values, side="right").astype(np.int64)
    return np.where(np.isnan(values), UNKNOWN, classes)
