"""Maxima and means over many rectangles of cells at once."""

from __future__ import annotations

import torch
from torch import Tensor


def rectangle_max(maps: Tensor, cells: Tensor) -> Tensor:
    """Maximum over rectangles of feature maps.

    A rectangle is the union of four overlapping ones whose sides are powers of two, and a table of the maxima over
    those is made by doubling (the sparse table of range-maximum queries, in two dimensions). The cost hardly depends on
    the number of rectangles, and channels that lie together in memory are compared together.

    Args:
        maps: float ``(B, C, h, w)``.
        cells: int64 ``(M, 5)`` on the CPU: map number, x1, y1, x2, y2; ``x2`` and ``y2`` exclusive, never empty.

    Returns:
        float ``(M, C)``.
    """
    powers = _floor_log2(cells[:, 3:] - cells[:, 1:3])
    pooled = maps.new_empty(len(cells), maps.shape[1])
    wide = maps.permute(0, 2, 3, 1)
    for i in range(_largest(powers[:, 0]) + 1):
        wide = wide if i == 0 else _doubled(wide, 2, 2 ** (i - 1))
        high = wide
        for j in range(_largest(powers[powers[:, 0] == i, 1]) + 1):
            high = high if j == 0 else _doubled(high, 1, 2 ** (j - 1))
            rows = ((powers[:, 0] == i) & (powers[:, 1] == j)).nonzero().flatten()
            if len(rows):
                pooled[rows.to(maps.device)] = _four_corners(high, cells[rows].to(maps.device), 2**i, 2**j)
    return pooled


def rectangle_mean(maps: Tensor, cells: Tensor) -> Tensor:
    """Mean over rectangles of feature maps, as one matrix product per map.

    Args and result are those of :func:`rectangle_max`. Sums have no cancellation, unlike those of integral images.
    """
    height, width = maps.shape[2:]
    y, x = (torch.arange(n, device=cells.device) for n in (height, width))
    rows = (y >= cells[:, 2:3]) & (y < cells[:, 4:5])
    columns = (x >= cells[:, 1:2]) & (x < cells[:, 3:4])
    shares = (rows[:, :, None] & columns[:, None, :]).flatten(1).to(maps.dtype)
    shares = (shares / shares.sum(1, keepdim=True)).to(maps.device)
    pooled = maps.new_empty(len(cells), maps.shape[1])
    for number in cells[:, 0].unique().tolist():
        mine = (cells[:, 0] == number).nonzero().flatten().to(maps.device)
        pooled[mine] = shares[mine] @ maps[number].flatten(1).T
    return pooled


def _floor_log2(lengths: Tensor) -> Tensor:
    # frexp is exact where a rounded logarithm of 2**k might fall below k
    return torch.frexp(lengths.double()).exponent.long() - 1


def _largest(powers: Tensor) -> int:
    return max(powers.tolist(), default=-1)


def _doubled(table: Tensor, dim: int, length: int) -> Tensor:
    """Maxima over ``2 * length`` cells along ``dim`` from those over ``length``."""
    rest = table.shape[dim] - length
    return torch.maximum(table.narrow(dim, 0, rest), table.narrow(dim, length, rest))


def _four_corners(table: Tensor, cells: Tensor, width: int, height: int) -> Tensor:
    """Maxima over rectangles from a table ``(B, h, w, C)`` of those over ``height x width`` cells."""
    number, x1, y1, x2, y2 = cells.unbind(1)
    top = torch.maximum(table[number, y1, x1], table[number, y1, x2 - width])
    bottom = torch.maximum(table[number, y2 - height, x1], table[number, y2 - height, x2 - width])
    return torch.maximum(top, bottom)
