"""Heat maps over a photo, and boxes around what is hot on them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb import checks
from objemb.ops.boxes import clip, scale
from objemb.ops.components import largest_component

#: Parts of a cell, in both directions, to which a heat map is interpolated before it is cut at a threshold.
PARTS = 8


def heat_boxes(heat: Tensor, threshold: float, cell: tuple[float, float], size: tuple[int, int]) -> Tensor:
    """Boxes of the largest connected part of each heat map that is at least a share of its hottest place.

    The cells are centred on the image. Where they reach beyond it, the network pads, and looks at the middle of the
    image with the middle cell: a network of stride 32 that pads sees 17 cells in 513 pixels, around pixel 0 to 512.

    Args:
        heat: float ``(M, h, w)``, not negative.
        threshold: That share, 0 to 1.
        cell: ``(height, width)`` of a cell in original pixels.
        size: ``(height, width)`` of the original image.

    Returns:
        float32 ``(M, 4)`` on the CPU: xyxy in original pixels, inside the image, in steps of a :data:`PARTS`-th cell;
        the whole image for a map that is the same everywhere.

    Raises:
        ImportError: scipy is not installed.
    """
    checks.shape("heat", heat, (None, None, None))
    checks.between("threshold", threshold, 0, 1)
    if not len(heat):
        return torch.zeros(0, 4)
    fine = F.interpolate(heat[:, None].float().cpu(), scale_factor=PARTS, mode="bilinear", align_corners=False)[:, 0]
    hot = largest_component(fine >= threshold * fine.amax(dim=(1, 2), keepdim=True))
    (x1, x2), (y1, y2) = _extent(hot.any(dim=1)), _extent(hot.any(dim=2))
    boxes = scale(torch.stack([x1, y1, x2, y2], dim=1) / PARTS, cell)
    top, left = overhang(heat, cell, size)
    return clip(boxes - boxes.new_tensor([left, top, left, top]), size)


def overhang(heat: Tensor, cell: tuple[float, float], size: tuple[int, int]) -> tuple[float, float]:
    """How far the cells reach beyond the image at the top and on the left, in original pixels.

    Negative where they end inside of it; for the arguments see :func:`heat_boxes`.
    """
    height, width = heat.shape[-2:]
    return (height * cell[0] - size[0]) / 2, (width * cell[1] - size[1]) / 2


def spread(heat: Tensor, cell: tuple[float, float], size: tuple[int, int], shape: tuple[int, int]) -> Tensor:
    """Heat maps as pictures of the image, bilinear between the middles of cells.

    Args:
        heat: float ``(M, h, w)``.
        cell: See :func:`heat_boxes`.
        size: See :func:`heat_boxes`.
        shape: ``(height, width)`` of the pictures.

    Returns:
        float32 ``(M, *shape)`` on the CPU.
    """
    checks.shape("heat", heat, (None, None, None))
    beyond = overhang(heat, cell, size)
    # where the middle of each pixel lies among the cells, -1 and 1 being their outer edges
    y, x = (
        2 * ((torch.arange(n) + 0.5) * side / n + over) / (cells * length) - 1
        for n, side, over, cells, length in zip(shape, size, beyond, heat.shape[1:], cell, strict=True)
    )
    grid = torch.stack([x[None].expand(*shape), y[:, None].expand(*shape)], dim=2)
    return F.grid_sample(heat[None].float().cpu(), grid[None], padding_mode="border", align_corners=False)[0]


def _extent(line: Tensor) -> tuple[Tensor, Tensor]:
    """First true place of each row of bool ``(M, n)``, and the place behind the last."""
    places = line.to(torch.uint8)
    return places.argmax(dim=1), line.shape[1] - places.flip(1).argmax(dim=1)
