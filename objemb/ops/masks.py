"""Masks that are stretched over boxes, and boxes around masks."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from objemb.types import BoolArray


def box_of(mask: BoolArray) -> tuple[int, int, int, int]:
    """The tightest box around the true pixels of a ``(h, w)`` mask, xyxy edges; all 0 when there are none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if len(rows) == 0:
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def coverage(masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """How much of each cell of a raster lies under a mask.

    Exact for any sizes: the overlap of a cell with a mask pixel is a product of two lengths, so that the whole is one
    matrix product per direction.

    Args:
        masks: ``(N, mh, mw)``, 0 or 1, each stretched over its box.
        boxes: float ``(N, 4)`` in cells of the raster; parts outside of it are ignored.
        size: ``(height, width)`` of the raster.

    Returns:
        float32 ``(N, height, width)`` in 0 to 1; all 0 under a box without area.
    """
    height, width = size
    rows = _overlaps(boxes[:, 1], boxes[:, 3], masks.shape[1], height)
    columns = _overlaps(boxes[:, 0], boxes[:, 2], masks.shape[2], width)
    return (rows @ masks.float() @ columns.transpose(1, 2)).clamp(0, 1)


def _overlaps(low: Tensor, high: Tensor, parts: int, cells: int) -> Tensor:
    """Length ``(N, cells, parts)`` that cell ``i`` shares with part ``j`` of the stretch from ``low`` to ``high``."""
    steps = torch.linspace(0, 1, parts + 1, device=low.device)
    edges = (low[:, None] + (high - low)[:, None] * steps)[:, None]
    starts = torch.arange(cells, device=low.device, dtype=edges.dtype)[None, :, None]
    shared = torch.minimum(edges[..., 1:], starts + 1) - torch.maximum(edges[..., :-1], starts)
    return shared.clamp_min(0)
