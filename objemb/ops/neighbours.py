"""The nearest neighbours of every row among all others."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from objemb import checks
from objemb.ops.arrays import as_tensor

#: Rows that are compared with ``COLUMNS`` others at once: their products take 64 MB.
ROWS, COLUMNS = 1 << 10, 1 << 14
#: Fills the places of neighbours that do not exist; their similarity is -inf.
NO_ROW = -1


def nearest_neighbours(
    vectors: NDArray[np.float32], groups: NDArray[np.int64], k: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The ``k`` rows of other groups with the largest inner products, for each row, exactly.

    Takes time quadratic in the number of rows, memory linear in it; ``vectors`` may be a memory map. Of equal
    products any is taken.

    Args:
        vectors: float32 ``(R, D)``.
        groups: int64 ``(R,)``, non-decreasing. ``arange(R)`` leaves out nothing but the row itself.
        k: Neighbours per row.

    Returns:
        int64 ``(R, k)`` rows, nearest first, ``NO_ROW`` where there are fewer, and their products float32 ``(R, k)``.
    """
    checks.whole("k", k)
    rows = np.full((len(vectors), k), NO_ROW, dtype=np.int64)
    products = np.full((len(vectors), k), -np.inf, dtype=np.float32)
    for start in range(0, len(vectors), ROWS):
        here = slice(start, start + ROWS)
        best, at = _nearest_to(vectors, groups, here, k)
        found = min(k, best.shape[1])
        products[here, :found] = best.numpy()
        rows[here, :found] = np.where(np.isneginf(products[here, :found]), NO_ROW, at.numpy())
    return rows, products


def _nearest_to(vectors: NDArray[np.float32], groups: NDArray[np.int64], here: slice, k: int) -> tuple[Tensor, Tensor]:
    """Products and rows of the neighbours of some rows, falling."""
    own, own_groups = as_tensor(vectors[here]), groups[here]
    best, at = torch.zeros(len(own), 0), torch.zeros(len(own), 0, dtype=torch.int64)
    for start in range(0, len(vectors), COLUMNS):
        there = groups[start : start + COLUMNS]
        products = own @ as_tensor(vectors[start : start + COLUMNS]).T
        if there[0] <= own_groups[-1] and there[-1] >= own_groups[0]:
            products[torch.from_numpy(own_groups[:, None] == there[None])] = -torch.inf
        some, columns = products.topk(min(k, len(there)), dim=1)
        best, at = torch.cat([best, some], 1), torch.cat([at, columns + start], 1)
        best, order = best.topk(min(k, best.shape[1]), dim=1)
        at = at.gather(1, order)
    return best, at
