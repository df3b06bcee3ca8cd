"""Masks that are stretched over boxes, and boxes around masks."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from objemb.types import AnyArray, BoolArray, FloatArray

if TYPE_CHECKING:
    from torch import Tensor

B = TypeVar("B", FloatArray, "Tensor")


def box_of(mask: BoolArray) -> tuple[int, int, int, int]:
    """The tightest box around the True pixels of a ``(h, w)`` mask, xyxy edges; zeros if there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def coverage(masks: AnyArray | Tensor, boxes: B, size: tuple[int, int]) -> B:
    """The share of each cell of a raster that is covered by a mask; for arrays, or tensors on any device.

    Exact for any sizes: the overlap of a cell with a mask pixel is a product of two lengths, so that the result is one
    matrix product per direction.

    Args:
        masks: ``(N, mh, mw)``, 0 or 1, each stretched over its box.
        boxes: float ``(N, 4)`` in cells of the raster; parts outside of it are ignored.
        size: ``(height, width)`` of the raster.

    Returns:
        ``(N, height, width)``, 0 to 1, of the type of the boxes; zeros for a box without area.
    """
    height, width = size
    names = _namespace(boxes)
    rows = _overlaps(names, boxes[:, 1], boxes[:, 3], masks.shape[1], height)
    columns = _overlaps(names, boxes[:, 0], boxes[:, 2], masks.shape[2], width)
    shares: B = names.clip(rows @ names.asarray(masks, dtype=boxes.dtype) @ columns.swapaxes(1, 2), 0, 1)
    return shares


def _namespace(values: AnyArray | Tensor) -> ModuleType:
    """NumPy for arrays, PyTorch for tensors; both have the functions of the array API standard."""
    if isinstance(values, np.ndarray):
        return np
    import torch

    return torch


def _overlaps(names: ModuleType, low: B, high: B, parts: int, cells: int) -> B:
    """Length ``(N, cells, parts)`` that cell ``i`` shares with part ``j`` of the stretch from ``low`` to ``high``."""
    steps = names.linspace(0, 1, parts + 1, dtype=low.dtype, device=low.device)
    edges = (low[:, None] + (high - low)[:, None] * steps)[:, None]
    starts = names.arange(cells, dtype=low.dtype, device=low.device)[None, :, None]
    shared = names.minimum(edges[..., 1:], starts + 1) - names.maximum(edges[..., :-1], starts)
    overlaps: B = names.clip(shared, 0, None)
    return overlaps
