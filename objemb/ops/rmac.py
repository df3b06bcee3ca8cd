"""The rigid multi-scale grid of R-MAC, and which of its regions are summed up (Tolias, Sicre and Jegou, "Particular
object retrieval with integral max-pooling of CNN activations", 2015)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from objemb import checks
from objemb.structures import Regions

#: How many regions the grid may lay along the longer side of its first level.
STEPS = range(2, 8)


def rmac_cells(height: int, width: int, levels: int = 3, overlap: float = 0.4) -> Tensor:
    """Square regions at several scales that cover a map with about the same overlap.

    Level ``l`` has ``l`` squares along the shorter side, of side ``2 min(height, width) / (l + 1)``; the longer side
    gets as many more as bring the overlap of neighbours on the first level nearest to ``overlap``. Levels whose squares
    would be smaller than a cell are left out.

    Args:
        height: Cells from top to bottom.
        width: Cells from left to right.
        levels: Number of scales L.
        overlap: Share of a first-level square that its neighbour should cover.

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
    """The same squares, laid on the pixels of a network's input and brought to the cells of its map.

    A square's first and last pixel, divided by the stride and rounded (halves up), are its first and last cell, both
    included, as ROI pooling was in Caffe: neighbours that touch share a row of cells, and squares that are smaller than
    a cell have one. So do the programs that the authors of deep image retrieval (Gordo et al., IJCV 2017) and of
    regional attention (Kim and Yoon, BMVC 2018) released.

    Args:
        shape: ``(height, width)`` of the input in pixels.
        raster: The same of the map in cells. A square that begins behind the last cell gets the last one, where those
            programs have zeros; it takes an input of less than a few strides.
        stride: Pixels of the input along a cell.
        levels: As for :func:`rmac_cells`, as the next.
        overlap: As there.

    Returns:
        int64 ``(R, 4)``, as there.
    """
    squares = rmac_cells(*shape, levels, overlap)
    most = torch.tensor([raster[1], raster[0]])
    first = torch.minimum((2 * squares[:, :2] + stride) // (2 * stride), most - 1)
    last = torch.minimum((2 * (squares[:, 2:] - 1) + stride) // (2 * stride), most - 1)
    return torch.cat([first, torch.maximum(first, last) + 1], dim=1)


def first_summed(regions: Regions, whole_image: bool) -> int:
    """The row that a sum of the vectors of regions starts from.

    It is 1 where region 0 is the whole image and is left out of the sum over the grid, as in R-MAC (Tolias, Sicre and
    Jegou 2015); else 0. A whole image that is the only region is always summed.

    Args:
        regions: Of an image.
        whole_image: Whether the whole image joins.
    """
    if whole_image or len(regions) < 2:
        return 0
    height, width = regions.size
    return int(regions.boxes[0].tolist() == [0, 0, width, height])


@lru_cache(maxsize=1024)
def _grid(height: int, width: int, levels: int, overlap: float) -> tuple[tuple[int, int, int, int], ...]:
    extra = _extra_regions(height, width, overlap)
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


def _extra_regions(height: int, width: int, overlap: float) -> int:
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
