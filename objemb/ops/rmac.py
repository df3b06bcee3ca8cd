"""The rigid multi-scale grid of R-MAC, and the selection of regions that are summed (Tolias, Sicre and Jegou,
"Particular object retrieval with integral max-pooling of CNN activations", 2015)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from objemb import checks
from objemb.structures import Regions

#: Maximum number of regions along the longer side at the first level.
STEPS = range(2, 8)


def rmac_cells(height: int, width: int, levels: int = 3, overlap: float = 0.4) -> Tensor:
    """Square regions at several scales that cover a map with about equal overlap.

    Level ``l`` has ``l`` squares along the shorter side, of side ``2 min(height, width) / (l + 1)``; the number of
    additional squares along the longer side is that for which the overlap of neighbours at the first level is nearest
    to ``overlap``. Levels whose squares would be smaller than a cell are left out.

    Args:
        height: Height of the map in cells.
        width: Width of the map in cells.
        levels: Number of scales L.
        overlap: Intended overlap of neighbouring squares at the first level, as a share of their area.

    Returns:
        int64 ``(R, 4)``: x1, y1, x2, y2 in cells, ``x2`` and ``y2`` exclusive; coarse levels first, row by row.
    """
    for name, value in {"height": height, "width": width, "levels": levels}.items():
        checks.positive(name, value)
    checks.between("overlap", overlap, 0, 1)
    return torch.tensor(_grid(height, width, levels, overlap), dtype=torch.int64)


def rmac_cells_of_pixels(
    shape: tuple[int, int], raster: tuple[int, int], stride: int, levels: int = 3, overlap: float = 0.4
) -> Tensor:
    """The same squares, laid on the pixels of a network's input and rounded to the cells of its map.

    A square's first and last pixel, divided by the stride and rounded (halves up), are its first and last cell, both
    inclusive, as in Caffe's ROI pooling: adjacent squares share a row of cells, and squares smaller than a cell have
    one. This is also done by the code of deep image retrieval (Gordo et al., IJCV 2017) and of regional attention (Kim
    and Yoon, BMVC 2018).

    Args:
        shape: ``(height, width)`` of the input in pixels. raster: ``(height, width)`` of the map in cells. A square
            that starts after the last cell is moved to it, instead of giving zeros as in that code; this happens only
            for inputs of less than a few strides.
        stride: Pixels of the input per cell.
        levels: See :func:`rmac_cells`.
        overlap: See :func:`rmac_cells`.

    Returns:
        int64 ``(R, 4)``, see :func:`rmac_cells`.
    """
    squares = rmac_cells(*shape, levels, overlap)
    most = torch.tensor([raster[1], raster[0]])
    first = torch.minimum((2 * squares[:, :2] + stride) // (2 * stride), most - 1)
    last = torch.minimum((2 * (squares[:, 2:] - 1) + stride) // (2 * stride), most - 1)
    return torch.cat([first, torch.maximum(first, last) + 1], dim=1)


def first_summed(regions: Regions, whole_image: bool) -> int:
    """The index of the first region in the sum over the regions of an image.

    It is 1 if region 0 is the whole image and is left out of the sum over the grid, as in R-MAC (Tolias, Sicre and
    Jegou 2015); otherwise 0. A whole image that is the only region is always summed.

    Args:
        regions: The regions of an image.
        whole_image: Whether the whole image is part of the sum.
    """
    if whole_image or len(regions) < 2:
        return 0
    height, width = regions.size
    return int(regions.boxes[0].tolist() == [0, 0, width, height])


def summed_rows(vectors: Tensor, whole_image: bool) -> Tensor:
    """The sum ``(D,)`` of vectors ``(R, D)`` of the whole image and other regions, as :func:`first_summed` says, in a
    program that is traced: R may depend on values there, but is never 0."""
    counted = torch.ones_like(vectors[:, :1])
    if not whole_image:
        others = counted.cumsum(dim=0) > 1
        counted = torch.where(counted.sum() > 1, others.to(counted), counted)
    return (vectors * counted).sum(dim=0)


@lru_cache(maxsize=1024)
def _grid(height: int, width: int, levels: int, overlap: float) -> tuple[tuple[int, int, int, int], ...]:
    extra = extra_regions(height, width, overlap)
    columns = extra if width > height else 0
    rows = extra if height > width else 0
    squares = []
    for level in range(1, levels + 1):
        side = 2 * min(height, width) // (level + 1)
        if side > 0:
            xs = _starts(width, side, level + columns)
            ys = _starts(height, side, level + rows)
            squares += [(x, y, x + side, y + side) for y in ys for x in xs]
    return tuple(squares)


def extra_regions(height: int, width: int, overlap: float) -> int:
    """Number of regions that the longer side has more than the shorter."""
    short, long = min(height, width), max(height, width)
    shifts = [(long - short) / (steps - 1) for steps in STEPS]
    misses = [abs((short**2 - short * shift) / short**2 - overlap) for shift in shifts]
    return misses.index(min(misses)) + 1


def _starts(length: int, side: int, count: int) -> list[int]:
    """First cells of ``count`` regions of ``side`` cells, spread over ``length``."""
    shift = (length - side) / (count - 1) if count > 1 else 0.0
    half = math.floor(side / 2 - 1)
    return [math.floor(half + i * shift) - half for i in range(count)]
