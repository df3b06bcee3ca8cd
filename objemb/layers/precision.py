"""Networks in half precision, everything behind them in single."""

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
    """Within the block, backbones and the trunks of detectors compute in ``dtype``; None leaves them as they are.

    Their weights stay as they are, and what comes out is float32 again: boxes, pooling, whitening and lengths, where
    eight bits of a mantissa would show, are computed in single precision.
    """
    token = _DTYPE.set(dtype)
    try:
        yield
    finally:
        _DTYPE.reset(token)


def computed(device: torch.device, network: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """What a network gives, a tensor or tensors by name, computed as :func:`networks_in` says."""
    dtype = _DTYPE.get()
    if dtype is None:
        return network(*args, **kwargs)
    with torch.autocast(device.type, dtype):
        output = network(*args, **kwargs)
    if isinstance(output, Tensor):
        return output.float()
    return {name: map_.float() for name, map_ in output.items()}
