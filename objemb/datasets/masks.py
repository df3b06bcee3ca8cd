"""Masks in COCO's form, and boxes around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def box_of(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The tightest box around the true pixels of a ``(h, w)`` mask, xyxy edges; all 0 when there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def encode_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """COCO's uncompressed run lengths of a ``(h, w)`` mask: ``{"size": [h, w], "counts": [...]}``.

    The runs go down the columns, from left to right, and begin with the zeros (maybe none of them).
    """
    flat = mask.T.reshape(-1)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    edges = np.concatenate([[0] if not flat.size or not flat[0] else [0, 0], changes, [flat.size]])
    return {"size": list(mask.shape), "counts": np.diff(edges).tolist()}


def decode_mask(runs: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask of :func:`encode_mask`.

    Raises:
        ValueError: The runs do not add up to the size.
    """
    height, width = runs["size"]
    counts = np.asarray(runs["counts"], dtype=np.int64)
    if counts.min(initial=0) < 0 or counts.sum() != height * width:
        raise ValueError(f"mask: expected runs of {height} x {width} pixels, found {int(counts.sum())} pixels")
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(width, height).T
