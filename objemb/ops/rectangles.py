"""Many rectangles of cells at once: their maxima, their means, and copies of them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

#: Values that :func:`equal_rectangles` copies at a time.
COPIED = 1 << 22
#: Tables of :func:`rectangle_max_of_one`.
TABLES = 11


def rectangle_max(maps: Tensor, cells: Tensor) -> Tensor:
    """Maximum over rectangles of feature maps.

    A rectangle is the union of four overlapping ones whose sides are powers of two; a table of the maxima over those is
    built by doubling (the sparse table of range-maximum queries, in two dimensions). The cost hardly depends on the
    number of rectangles, and channels that are contiguous in memory are compared together.

    Args:
        maps: float ``(B, C, h, w)``.
        cells: int64 ``(M, 5)`` on the CPU: index of the map, x1, y1, x2, y2; ``x2`` and ``y2`` exclusive, never empty.

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


def rectangle_max_of_one(map_: Tensor, cells: Tensor) -> Tensor:
    """What :func:`rectangle_max` gives for a single map, by operations that do not depend on values, for exporters.

    Along the width as there, by a table of maxima over ``2 ** i`` cells; along the height, what lies outside is masked.

    Args:
        map_: float ``(1, C, h, w)``, at most ``2 ** TABLES - 1`` cells wide.
        cells: int64 ``(N, 4)``: x1, y1, x2, y2; ``x2`` and ``y2`` exclusive, never empty.

    Returns:
        float ``(N, C)``.
    """
    wide = map_[0].permute(2, 1, 0)
    height, width = map_.shape[2:]
    places = torch.arange(width, device=map_.device)
    tables = [wide]
    for i in range(TABLES - 1):
        tables.append(torch.maximum(tables[-1], tables[-1].index_select(0, (places + 2**i).clamp(max=width - 1))))
    table = torch.cat(tables)
    lengths = 2 ** torch.arange(TABLES, device=map_.device)
    x1, y1, x2, y2 = cells.unbind(1)
    power = ((x2 - x1)[:, None] >= lengths).sum(dim=1) - 1
    start = power * width
    columns = torch.maximum(table[start + x1], table[start + x2 - lengths[power]])
    rows = torch.arange(height, device=map_.device)
    held = (rows >= y1[:, None]) & (rows < y2[:, None])
    return columns.masked_fill(~held[:, :, None], -torch.inf).amax(dim=1)


def rectangle_mean(maps: Tensor, cells: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over rectangles of feature maps, as one matrix product per map.

    Args:
        maps: As for :func:`rectangle_max`, like ``cells``.
        cells: Likewise.
        weights: float ``(B, h, w)``, none below 0: how much each cell of a map counts; None for all alike.

    Returns:
        float ``(M, C)``; zeros where all weights are 0.
    """
    shares = inside(cells[:, 1:], (maps.shape[2], maps.shape[3])).to(maps)
    if weights is not None:
        shares = shares * weights[cells[:, 0].to(maps.device)]
    return means_over_maps(maps, cells[:, 0], shares)


def means_over_maps(maps: Tensor, numbers: Tensor, weights: Tensor) -> Tensor:
    """Weighted means over whole maps, without the cancellation errors of integral images.

    Args:
        maps: float ``(B, C, h, w)``.
        numbers: int64 ``(M,)`` on the CPU: the map of each mean.
        weights: float ``(M, h, w)``, none below 0, on the device of the maps.

    Returns:
        float ``(M, C)``; zeros where all weights are 0.
    """
    flat = weights.flatten(1).to(maps.dtype)
    total = flat.sum(dim=1, keepdim=True)
    shares = flat / total.where(total > 0, torch.ones_like(total))
    if maps.shape[0] == 1:
        return shares @ maps[0].flatten(1).T
    pooled = maps.new_empty(len(numbers), maps.shape[1])
    for number in numbers.unique().tolist():
        mine = (numbers == number).nonzero().flatten().to(maps.device)
        pooled[mine] = shares[mine] @ maps[number].flatten(1).T
    return pooled


def inside(rectangles: Tensor, size: tuple[int, int]) -> Tensor:
    """The cells of a raster inside each rectangle.

    Args:
        rectangles: int64 ``(M, 4)``: x1, y1, x2, y2 in cells, ``x2`` and ``y2`` exclusive.
        size: ``(height, width)`` of the raster.

    Returns:
        bool ``(M, height, width)``.
    """
    y, x = (torch.arange(n, device=rectangles.device) for n in size)
    rows = (y >= rectangles[:, 1:2]) & (y < rectangles[:, 3:4])
    columns = (x >= rectangles[:, 0:1]) & (x < rectangles[:, 2:3])
    return rows[:, :, None] & columns[:, None, :]


def equal_rectangles(maps: Tensor, cells: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Copies of rectangles, grouped by shape, in blocks of limited size.

    Args:
        maps: As for :func:`rectangle_max`, like ``cells``.
        cells: Likewise.

    Yields:
        Row numbers, int64 ``(N,)``, and the copies, float ``(N, C, height, width)``, both on the device of the maps.
    """
    wide = maps.permute(0, 2, 3, 1)
    sides = cells[:, 3:] - cells[:, 1:3]
    shapes, kinds = sides.unique(dim=0, return_inverse=True) if len(cells) else (sides, cells[:, 0])
    for kind, (width, height) in enumerate(shapes.tolist()):
        block = max(1, COPIED // (width * height * maps.shape[1]))
        for rows in (kinds == kind).nonzero().flatten().split(block):
            number, left, top = cells[rows, :3].to(maps.device).T[:, :, None, None]
            y = top + torch.arange(height, device=maps.device)[:, None]
            x = left + torch.arange(width, device=maps.device)
            yield rows.to(maps.device), wide[number, y, x].permute(0, 3, 1, 2)


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
