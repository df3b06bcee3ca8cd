"""Basic functions of tensors: made of arrays without a copy, brought to unit length, cut or filled to known shapes."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from objemb.types import AnyArray


def as_tensor(array: AnyArray) -> Tensor:
    """A tensor over the memory of an array, which may be a read-only map; then it must not be written to.

    ``torch.from_numpy`` warns of arrays that are read only, and ``torch.from_dlpack`` takes them in few combinations of
    versions; so the array is shown as one that may be written to. The tensor keeps it alive.
    """
    if array.flags.writeable:
        return torch.from_numpy(array)
    return torch.from_numpy(np.asarray(_Writable(array)))


def l2(vectors: Tensor) -> Tensor:
    """Rows ``(N, D)`` at unit length; a row of zeros stays a row of zeros.

    Rows are scaled by their largest element first, so that neither huge nor tiny ones overflow or vanish in the square.
    """
    largest = vectors.abs().amax(dim=1, keepdim=True) if vectors.shape[1] else vectors.new_ones(len(vectors), 1)
    scaled = vectors / largest.where(largest > 0, torch.ones_like(largest))
    length = scaled.norm(dim=1, keepdim=True)
    normalised: Tensor = scaled / length.where(length > 0, torch.ones_like(length))
    return normalised


def rows_where(chosen: Tensor) -> Tensor:
    """int64 numbers of the rows that are true in bool ``(N,)``, in order.

    For programs that are traced: the number of rows depends on values there, and nothing else may depend on it.
    """
    rows = chosen.nonzero()[:, 0]
    torch._check(rows.shape[0] <= chosen.shape[0])
    return rows


def padded_rows(rows: Tensor, count: int, value: float = 0.0) -> Tensor:
    """The first ``count`` rows ``(count, ...)`` of a tensor that may have fewer; ``value`` stands for the missing.

    For programs that are traced, where shapes have to be known in advance.
    """
    missing = rows.new_full((count, *rows.shape[1:]), value)
    joined = torch.cat([rows, missing])
    torch._check(joined.shape[0] >= count)
    return joined[:count]


class _Writable:
    """An array that says that it may be written to; what NumPy makes of it keeps this object, and so the array."""

    def __init__(self, array: AnyArray) -> None:
        self._array = array
        described = array.__array_interface__
        self.__array_interface__ = {**described, "data": (described["data"][0], False)}
