"""Selection of cells of a feature map."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks

SELECTIONS = ("max", "sum")


def selection(maps: Tensor, weights: Tensor | None, kind: str) -> Tensor:
    """Selective masks (Hoang et al., "Selective deep convolutional features for image retrieval", ACM MM 2017).

    ``"max"`` selects the cells in which at least one channel has its maximum over the region (all of several equal
    ones); constant channels select no cell. ``"sum"`` selects the cells whose sum over the channels is at least the
    median of these sums over the region.

    Args:
        maps: float ``(M, C, h, w)``.
        weights: float ``(M, h, w)``; cells with weight 0 are not part of the region. None for all cells.
        kind: One of :data:`SELECTIONS`.

    Returns:
        bool ``(M, h, w)``, inside the region; the whole region if no cell is selected.
    """
    checks.one_of("kind", kind, SELECTIONS)
    inside = region(maps, weights)
    chosen = _peaks(maps, inside) if kind == "max" else _upper_half(maps.sum(dim=1), inside)
    return or_all(chosen, inside)


def region(maps: Tensor, weights: Tensor | None) -> Tensor:
    """bool ``(M, h, w)``: the cells of maps ``(M, C, h, w)`` with a weight ``(M, h, w)`` above 0; all for None."""
    return maps.new_ones(len(maps), *maps.shape[2:], dtype=torch.bool) if weights is None else weights > 0


def or_all(chosen: Tensor, inside: Tensor) -> Tensor:
    """The chosen cells ``(M, h, w)``, or all ``inside`` if none was chosen, so that every region has a vector."""
    return chosen | (inside & ~chosen.flatten(1).any(dim=1)[:, None, None])


def _peaks(maps: Tensor, inside: Tensor) -> Tensor:
    """Cells that hold the maximum of a channel."""
    outside = ~inside[:, None]
    highest = maps.masked_fill(outside, float("-inf")).amax(dim=(2, 3), keepdim=True)
    lowest = maps.masked_fill(outside, float("inf")).amin(dim=(2, 3), keepdim=True)
    return ((maps == highest) & (highest > lowest)).any(dim=1) & inside


def _upper_half(values: Tensor, inside: Tensor) -> Tensor:
    """Cells whose value is at least the median; for an even number of cells, that is the mean of the middle two."""
    ordered = values.masked_fill(~inside, float("inf")).flatten(1).sort(dim=1).values
    last = (inside.flatten(1).sum(dim=1, keepdim=True) - 1).clamp_min(0)
    middle = torch.cat([last // 2, (last + 1) // 2], dim=1)
    median = ordered.gather(1, middle).mean(dim=1)
    return (values >= median[:, None, None]) & inside
