"""Optimal transport between the cells of two boxes."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def transport(cosines: Tensor, dustbin: float | tuple[Tensor, Tensor], temperature: float, iterations: int) -> Tensor:
    """The optimal transport between the cells of two boxes, with dustbins.

    Args:
        cosines: float32 ``(H, n, m)``.
        dustbin: Similarity of every cell to the dustbin of the other side; or that of each cell, float32 ``(H, n)`` and
            ``(H, m)``. The similarity of the dustbins to each other is the mean of both means.
        temperature: Of the entropic regularisation.
        iterations: Alternating normalisations of rows and columns, in the logarithm.

    Returns:
        float32 ``(H, n, m)``, at least 0: the mass of each pair, without the dustbins, in shares of the larger number
        of cells. The total is at most ``min(n, m) / max(n, m)``.
    """
    count, rows, columns = cosines.shape
    if isinstance(dustbin, tuple):
        down, across = dustbin
    else:
        down, across = (cosines.new_full((count, length), dustbin) for length in (rows, columns))
    corner = (down.mean(dim=1) + across.mean(dim=1)) / 2
    below = torch.cat([across, corner[:, None]], dim=1)
    scores = torch.cat([torch.cat([cosines, down[:, :, None]], dim=2), below[:, None]], dim=1) / temperature
    # logarithms of masses: 1 for a cell, and for a dustbin as much as all cells of the other side
    row_mass = scores.new_zeros(rows + 1)
    column_mass = scores.new_zeros(columns + 1)
    row_mass[-1], column_mass[-1] = math.log(columns), math.log(rows)
    u, v = scores.new_zeros(count, rows + 1), scores.new_zeros(count, columns + 1)
    for _ in range(iterations):
        u = row_mass - torch.logsumexp(scores + v[:, None], dim=2)
        v = column_mass - torch.logsumexp(scores + u[:, :, None], dim=1)
    plan: Tensor = (scores + u[:, :, None] + v[:, None]).exp()[:, :rows, :columns]
    return plan / max(rows, columns)
