"""Boxes as float tensors ``(N, 4)`` of edges ``(x1, y1, x2, y2)``: edges are coordinates, sides are differences."""

from __future__ import annotations

from typing import TypeAlias

import torch
import torchvision.ops
from torch import Tensor

from objemb import checks

#: A box that overlaps a cell by less than this share of its side does not touch it, because of float32 rounding.
CELL_TOLERANCE = 1e-3
#: ``(height, width)``; in programs that are traced an int64 tensor ``(2,)`` of them, since sizes vary there.
Size: TypeAlias = tuple[int, int] | Tensor


def area(boxes: Tensor) -> Tensor:
    """Areas ``(...)`` of boxes ``(..., 4)``."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union ``(N, M)`` of boxes ``(N, 4)`` and ``(M, 4)``; 0 where both boxes have no area."""
    return paired_iou(first[:, None], second[None])


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union ``(...)`` of corresponding boxes ``(..., 4)``; shapes are broadcast."""
    overlap = intersection(first, second)
    union = area(first) + area(second) - overlap
    return torch.where(union > 0, overlap / union.where(union > 0, torch.ones_like(union)), torch.zeros_like(union))


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """Area of the intersection ``(...)`` of corresponding boxes ``(..., 4)``; shapes are broadcast."""
    corner = torch.maximum(first[..., :2], second[..., :2])
    opposite = torch.minimum(first[..., 2:], second[..., 2:])
    return (opposite - corner).clamp_min(0).prod(-1)


def nms(boxes: Tensor, scores: Tensor, max_iou: float) -> Tensor:
    """Class-agnostic non-maximum suppression.

    Args:
        boxes: float ``(N, 4)``.
        scores: float ``(N,)``.
        max_iou: A box whose IoU with a better one exceeds this is dropped; 1 keeps all.

    Returns:
        int64 row numbers of the kept boxes, best score first.
    """
    checks.between("max_iou", max_iou, 0, 1)
    kept: Tensor = torchvision.ops.nms(boxes.float(), scores.float(), max_iou)
    return kept


def clip(boxes: Tensor, size: Size) -> Tensor:
    """Boxes clipped to an image of ``size`` ``(height, width)``."""
    return torch.minimum(boxes.clamp_min(0), _ends(size, boxes).repeat(2))


def scale(boxes: Tensor, factors: tuple[float, float]) -> Tensor:
    """Boxes times ``(y, x)`` factors. Edges scale by multiplication alone, without a half-pixel shift."""
    y, x = factors
    return boxes * boxes.new_tensor([x, y, x, y])


def windows(boxes: Tensor, size: Size, margin: float = 0.0) -> Tensor:
    """The pixels to cut out for each box.

    Args:
        boxes: float ``(N, 4)`` in pixels of the image.
        size: ``(height, width)`` of the image.
        margin: Share of a box's width and height to add on each side, within the image.

    Returns:
        int64 ``(N, 4)``: edges rounded to the nearest pixel, inside the image, at least one pixel wide and high.
    """
    grow = margin * torch.cat([boxes[:, :2] - boxes[:, 2:], boxes[:, 2:] - boxes[:, :2]], dim=1)
    rounded = (clip(boxes + grow, size) + 0.5).floor().long()
    return _at_least_one(rounded, size)


def touched_cells(boxes: Tensor, size: Size) -> Tensor:
    """All cells of a raster that each box touches.

    A rectangle of whole cells gives exactly these cells, even if float32 has rounded its edges, or if the raster ends
    before or beyond the image.

    Args:
        boxes: float ``(N, 4)`` in cells: cell ``j`` spans ``j <= x <= j + 1``.
        size: ``(height, width)`` of the raster.

    Returns:
        int64 ``(N, 4)``, ``x2`` and ``y2`` exclusive; inside the raster, at least one cell wide and high.
    """
    low = (boxes[:, :2] + CELL_TOLERANCE).floor()
    high = (boxes[:, 2:] - CELL_TOLERANCE).ceil()
    return _at_least_one(clip(torch.cat([low, high], dim=1), size).long(), size)


def _at_least_one(rectangles: Tensor, size: Size) -> Tensor:
    """Integer rectangles inside the raster; empty ones are enlarged to one cell."""
    low = torch.minimum(rectangles[:, :2], _ends(size, rectangles) - 1)
    return torch.cat([low, torch.maximum(rectangles[:, 2:], low + 1)], dim=1)


def _ends(size: Size, like: Tensor) -> Tensor:
    """``(width, height)`` as a tensor ``(2,)`` of the type and on the device of another."""
    return size.flip(0).to(like) if isinstance(size, Tensor) else like.new_tensor([size[1], size[0]])
