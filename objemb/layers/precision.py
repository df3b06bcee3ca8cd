"""Networks in half precision, and everything after them in single precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
T = TypeVar("T", Tensor, dict[str, Tensor])

_DTYPE: ContextVar[torch.dtype | None] = ContextVar("objemb_precision", default=None)


@contextmanager
def networks_in(dtype: torch.dtype | None) -> Iterator[None]:
    """Inside the block, backbones and the trunks of detectors compute in ``dtype``; None changes nothing.

    Their weights are unchanged, and their outputs are float32: boxes, pooling, whitening and normalisation, for which
    half precision would be too inaccurate, are computed in single precision.
    """
    token = _DTYPE.set(dtype)
    try:
        yield
    finally:
        _DTYPE.reset(token)


def computed(device: torch.device, network: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The output of a network, a tensor or tensors by name, computed in the precision of :func:`networks_in`."""
    dtype = _DTYPE.get()
    if dtype is None:
        return network(*args, **kwargs)
    with torch.autocast(device.type, dtype):
        output = network(*args, **kwargs)
    if isinstance(output, Tensor):
        return output.float()
    return {name: map_.float() for name, map_ in output.items()}
