"""The exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from objemb import checks


class Ema:
    """Averages of all parameters and buffers of a module, ``a <- d a + (1 - d) w`` after each step.

    The decay ``d`` is ``min(decay, (1 + n) / (10 + n))`` at the n-th update, so that the first weights, which are
    random, are forgotten soon (the ``num_updates`` of TensorFlow's ExponentialMovingAverage). Integer buffers, such as
    the counters of batch norms, are copied.

    Args:
        module: What is averaged.
        decay: 0 to 1, without 1.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = checks.between("decay", decay, 0, 0.999999)
        self.updates = 0
        self.average = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Let the weights of ``module`` flow into the average."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in module.state_dict().items():
            kept = self.average[name]
            if kept.is_floating_point():
                kept.lerp_(value.detach().to(kept), 1 - decay)
            else:
                kept.copy_(value)

    @contextmanager
    def swapped_into(self, module: nn.Module) -> Iterator[None]:
        """``module`` has the averaged weights within, and its own ones afterwards."""
        own = {name: value.detach().clone() for name, value in module.state_dict().items()}
        module.load_state_dict(self.average)
        try:
            yield
        finally:
            module.load_state_dict(own)

    def state_dict(self) -> dict[str, object]:
        """What :meth:`load_state_dict` takes."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from another average of the same module."""
        average: Mapping[str, Tensor] = state["average"]  # type: ignore[assignment]
        self.updates = int(state["updates"])  # type: ignore[call-overload]
        for name, kept in self.average.items():
            kept.copy_(average[name])
