"""The grid of R-MAC on maps of any size as functions of tensors, for exporters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from objemb.ops.rmac import STEPS, extra_regions
from objemb.ops.tensors import padded_rows, rows_where

#: Up to so many cells a side :class:`RmacLayout` counts in whole numbers: float64 places no square of these otherwise.
SMALL = 60


class RmacLayout(nn.Module):
    """The squares of :mod:`objemb.ops.rmac` on maps of any size.

    Where squares lie is decided by float64, which differs from exact numbers for some maps, such as one of 5 x 9 cells,
    in how many squares the longer side has. Some runtimes compute in float32. Small maps, of at most ``SMALL`` cells a
    side, have a table of these numbers, and all else in whole numbers.

    Args:
        levels: As for :func:`objemb.ops.rmac.rmac_cells`.
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
        extras = [[extra_regions(height, width, overlap) for width in sides] for height in sides]
        self.register_buffer("extras", torch.tensor(extras), persistent=False)

    def forward(self, size: Tensor) -> tuple[Tensor, Tensor]:
        """Squares of cells.

        Args:
            size: int64 ``(2,)``: height and width of the map.

        Returns:
            int64 ``(most, 4)``, the squares of :func:`objemb.ops.rmac.rmac_cells` and then zeros, and the int64 number
            of squares.
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
        """The squares of :func:`objemb.ops.rmac.rmac_cells_of_pixels`; ``shape`` and ``raster`` are int64 ``(2,)``,
        height and width."""
        squares, count = self(shape)
        last = raster.flip(0) - 1
        begin = torch.minimum((2 * squares[:, :2] + stride) // (2 * stride), last)
        end = torch.minimum((2 * (squares[:, 2:] - 1) + stride) // (2 * stride), last)
        return torch.cat([begin, torch.maximum(begin, end) + 1], dim=1), count

    def _starts(self, places: Tensor, room: Tensor, steps: Tensor, side: Tensor) -> Tensor:
        """See :func:`objemb.ops.rmac.rmac_cells`: int64 ``(2, n)``, for rows and columns."""
        half = (side / 2 - 1).floor()
        shifts = room.double() / steps
        starts = (half + places * shifts[:, None]).floor() - half
        exact = places * room[:, None] // steps[:, None]
        return torch.where((room + side).amax(dim=0) <= SMALL, exact, starts.long())

    def _extra(self, short: Tensor, long: Tensor) -> Tensor:
        """See :func:`objemb.ops.rmac.extra_regions`."""
        known = self.extras[(short - 1).clamp(max=SMALL - 1), (long - 1).clamp(max=SMALL - 1)]
        least, steps = short.double(), torch.arange(STEPS.start - 1, STEPS.stop - 1, device=short.device)
        shifts = (long - short).double() / steps
        misses = ((least * least - least * shifts) / (least * least) - self.overlap).abs()
        return torch.where(long <= SMALL, known, misses.argmin(dim=0) + 1)
