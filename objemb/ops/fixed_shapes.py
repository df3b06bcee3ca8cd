"""Rows of tensors whose number depends on values, for programs that are traced: shapes there are known in advance, or
are numbers that nothing else depends on."""

from __future__ import annotations

import torch
from torch import Tensor


def rows_where(chosen: Tensor) -> Tensor:
    """int64 numbers of the rows that are true in bool ``(N,)``, in order."""
    rows = chosen.nonzero()[:, 0]
    torch._check(rows.shape[0] <= chosen.shape[0])
    return rows


def padded_rows(rows: Tensor, count: int, value: float = 0.0) -> Tensor:
    """The first ``count`` rows ``(count, ...)`` of a tensor that may have fewer; ``value`` stands for the missing."""
    missing = rows.new_full((count, *rows.shape[1:]), value)
    joined = torch.cat([rows, missing])
    torch._check(joined.shape[0] >= count)
    return joined[:count]
