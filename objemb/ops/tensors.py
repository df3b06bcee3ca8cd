"""Basic functions of tensors: conversion from arrays without a copy, normalisation, selection and padding of rows."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from objemb.types import AnyArray


def as_tensor(array: AnyArray) -> Tensor:
    """A tensor that shares the memory of an array. If the array is read-only, such as a memory map, the tensor must not
    be modified.

    ``torch.from_numpy`` warns about read-only arrays, and ``torch.from_dlpack`` accepts them only with some versions,
    so the array is presented as writable. The tensor keeps it alive.
    """
    if array.flags.writeable:
        return torch.from_numpy(array)
    return torch.from_numpy(np.asarray(_Writable(array)))


def l2(vectors: Tensor) -> Tensor:
    """Rows ``(N, D)`` at unit length; a row of zeros stays a row of zeros.

    Rows are divided by their largest element first, so that squares neither overflow nor underflow.
    """
    largest = vectors.abs().amax(dim=1, keepdim=True) if vectors.shape[1] else vectors.new_ones(len(vectors), 1)
    scaled = vectors / largest.where(largest > 0, torch.ones_like(largest))
    length = scaled.norm(dim=1, keepdim=True)
    normalised: Tensor = scaled / length.where(length > 0, torch.ones_like(length))
    return normalised


def rows_where(chosen: Tensor) -> Tensor:
    """int64 indices of the True elements of bool ``(N,)``, in order.

    For traced programs, in which the number of rows depends on values, and nothing else may depend on it.
    """
    rows = chosen.nonzero()[:, 0]
    torch._check(rows.shape[0] <= chosen.shape[0])
    return rows


def padded_rows(rows: Tensor, count: int, value: float = 0.0) -> Tensor:
    """The first ``count`` rows ``(count, ...)`` of a tensor, padded with ``value`` if it has fewer.

    For traced programs, in which shapes have to be known in advance.
    """
    missing = rows.new_full((count, *rows.shape[1:]), value)
    joined = torch.cat([rows, missing])
    torch._check(joined.shape[0] >= count)
    return joined[:count]


class _Writable:
    """Presents an array as writable. Arrays that NumPy makes from it keep a reference to it, and hence to the array."""

    def __init__(self, array: AnyArray) -> None:
        self._array = array
        described = array.__array_interface__
        self.__array_interface__ = {**described, "data": (described["data"][0], False)}
