"""Heat maps over a photo, and boxes around what is hot on them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb import checks
from objemb.ops.boxes import clip
from objemb.ops.components import largest_component
from objemb.ops.grid import Grid

#: Parts of a cell, per direction, to which a heat map is interpolated before it is thresholded.
PARTS = 8


def heat_boxes(heat: Tensor, threshold: float, grid: Grid, size: tuple[int, int]) -> Tensor:
    """Boxes around the largest connected component of each heat map above a share of its maximum.

    Args:
        heat: float ``(M, h, w)``, not negative.
        threshold: Share of the maximum, 0 to 1.
        grid: Positions of the ``h x w`` cells.
        size: ``(height, width)`` of the original image.

    Returns:
        float32 ``(M, 4)`` on the CPU: xyxy in original pixels, inside the image, in steps of a :data:`PARTS`-th cell;
        the whole image for a constant map.

    Raises:
        ImportError: scipy is not installed.
    """
    checks.shape("heat", heat, (None, None, None))
    if not len(heat):
        return torch.zeros(0, 4)
    fine = F.interpolate(heat[:, None].float().cpu(), scale_factor=PARTS, mode="bilinear", align_corners=False)[:, 0]
    return clip(grid.to_pixels(hot_cells(fine, threshold) / PARTS), size)


def hot_cells(heat: Tensor, threshold: float) -> Tensor:
    """The same in whole cells: int64 ``(M, 4)`` on the CPU, xyxy, ``x2`` and ``y2`` exclusive.

    The whole map if no cell is above the threshold: for a map of zeros, or a share of 1.
    """
    checks.shape("heat", heat, (None, None, None))
    checks.between("threshold", threshold, 0, 1)
    heat = heat.float().cpu()
    if not heat.numel():
        return torch.zeros(len(heat), 4, dtype=torch.int64)
    hot = heat > threshold * heat.amax(dim=(1, 2), keepdim=True)
    hot = largest_component(hot | ~hot.any(dim=2, keepdim=True).any(dim=1, keepdim=True))
    (x1, x2), (y1, y2) = _extent(hot.any(dim=1)), _extent(hot.any(dim=2))
    return torch.stack([x1, y1, x2, y2], dim=1)


def spread(heat: Tensor, grid: Grid, size: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Heat maps interpolated to the size of a picture, bilinear between the centres of cells.

    Args:
        heat: float ``(M, h, w)``.
        grid: See :func:`heat_boxes`.
        size: See :func:`heat_boxes`.
        shape: ``(height, width)`` of the pictures.

    Returns:
        float32 ``(M, *shape)`` on the CPU.
    """
    checks.shape("heat", heat, (None, None, None))
    # the centre of each pixel in coordinates of the map, in which -1 and 1 are the outer edges
    y, x = (
        2 * ((torch.arange(n) + 0.5) * side / n - corner) / (cells * length) - 1
        for n, side, corner, cells, length in zip(shape, size, grid.offset, heat.shape[1:], grid.cell, strict=True)
    )
    places = torch.stack([x[None].expand(*shape), y[:, None].expand(*shape)], dim=2)
    return F.grid_sample(heat[None].float().cpu(), places[None], padding_mode="border", align_corners=False)[0]


def _extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """The index of the first True in each row of bool ``(M, n)``, and that after the last."""
    places = line.to(torch.uint8)
    return places.argmax(dim=1), line.shape[1] - places.flip(1).argmax(dim=1)
