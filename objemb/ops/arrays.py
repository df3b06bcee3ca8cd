"""Arrays as tensors, without copying what is mapped from a file."""

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


class _Writable:
    """An array that says that it may be written to; what NumPy makes of it keeps this object, and so the array."""

    def __init__(self, array: AnyArray) -> None:
        self._array = array
        described = array.__array_interface__
        self.__array_interface__ = {**described, "data": (described["data"][0], False)}
