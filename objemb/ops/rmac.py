"""The rigid multi-scale grid of R-MAC, and the selection of regions that are summed (Tolias, Sicre and Jegou,
"Particular object retrieval with integral max-pooling of CNN activations", 2015)."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.ops.tensors import padded_rows, rows_where
from objemb.structures import Regions

#: Maximum number of regions along the longer side at the first level.
STEPS = range(2, 8)
#: Up to so many cells a side :class:`RmacLayout` counts in whole numbers: float64 places no square of these otherwise.
SMALL = 60


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


class RmacLayout(nn.Module):
    """:func:`rmac_cells` and :func:`rmac_cells_of_pixels` of maps of any size as functions of tensors, for exporters.

    Where squares lie is decided by float64, which differs from exact numbers for some maps, such as one of 5 x 9 cells,
    in how many squares the longer side has. Some runtimes compute in float32. Small maps, of at most ``SMALL`` cells a
    side, have a table of these numbers, and all else in whole numbers.

    Args:
        levels: As for :func:`rmac_cells`.
        overlap: As there.

    Attributes:
        most: The greatest number of squares of a map.
    """

    extras: Tensor

    def __init__(self, levels: int, overlap: float) -> None:
        super().__init__()
        self.levels, self.overlap = levels, overlap
        self.most = sum(level * (level + len(STEPS)) for level in range(1, levels + 1))
        sides = range(1, SMALL + 1)
        extras = [[_extra_regions(height, width, overlap) for width in sides] for height in sides]
        self.register_buffer("extras", torch.tensor(extras), persistent=False)

    def forward(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """Squares of cells.

        Args:
            size: int64 ``(2,)``: height and width of the map.

        Returns:
            int64 ``(most, 4)`` as of :func:`rmac_cells`, and the int64 number of those that are squares, which come
            first.
        """
        short = size.amin(dim=0)
        extra = self._extra(short, size.amax(dim=0))
        more = torch.where(size > size.flip(0), extra, 0)
        squares, real = [], []
        for level in range(1, self.levels + 1):
            side = 2 * short // (level + 1)
            places = torch.arange(level + len(STEPS), device=size.device)
            counts = more + level
            starts = self._starts(places, size - side, (counts - 1).clamp(min=1), side)
            there = places < counts[:, None]
            y, x = torch.meshgrid(starts[0], starts[1], indexing="ij")
            squares.append(torch.stack([x, y, x + side, y + side], dim=2).reshape(-1, 4))
            real.append((there[0][:, None] & there[1] & (side > 0)).reshape(-1))
        chosen = rows_where(torch.cat(real))
        return padded_rows(torch.cat(squares)[chosen], self.most), torch.ones_like(chosen).sum()

    def on_pixels(self, shape: Tensor, raster: Tensor, stride: int) -> tuple[Tensor, Tensor]:
        """As :func:`rmac_cells_of_pixels`, with ``shape`` and ``raster`` int64 ``(2,)``, height and width."""
        squares, count = self(shape)
        last = raster.flip(0) - 1
        begin = torch.minimum((2 * squares[:, :2] + stride) // (2 * stride), last)
        end = torch.minimum((2 * (squares[:, 2:] - 1) + stride) // (2 * stride), last)
        return torch.cat([begin, torch.maximum(begin, end) + 1], dim=1), count

    def _starts(self, places: Tensor, room: Tensor, steps: Tensor, side: Tensor) -> Tensor:
        """See :func:`_starts`: int64 ``(2, n)``, for rows and columns."""
        half = (side / 2 - 1).floor()
        shifts = room.double() / steps
        starts = (half + places * shifts[:, None]).floor() - half
        exact = places * room[:, None] // steps[:, None]
        return torch.where((room + side).amax(dim=0) <= SMALL, exact, starts.long())

    def _extra(self, short: Tensor, long: Tensor) -> Tensor:
        """See :func:`_extra_regions`."""
        known = self.extras[(short - 1).clamp(max=SMALL - 1), (long - 1).clamp(max=SMALL - 1)]
        least, steps = short.double(), torch.arange(STEPS.start - 1, STEPS.stop - 1, device=short.device)
        shifts = (long - short).double() / steps
        misses = ((least * least - least * shifts) / (least * least) - self.overlap).abs()
        return torch.where(long <= SMALL, known, misses.argmin(dim=0) + 1)


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
