"""The exponential moving average of weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypedDict

import torch
from torch import Tensor, nn

from objemb import checks


class EmaState(TypedDict):
    """The state of an average in a checkpoint."""

    updates: int
    average: dict[str, Tensor]


class Ema:
    """Averages of the trained values of a module, ``a <- d a + (1 - d) w`` after each step.

    Averaged are the parameters that require a gradient when the object is created, and all buffers, since the
    statistics of batch norms change as well. Frozen parameters are neither copied nor updated.

    The decay ``d`` is ``min(decay, (1 + n) / (10 + n))`` at the n-th update, so that the random initial weights are
    soon forgotten (``num_updates`` of TensorFlow's ExponentialMovingAverage). Integer buffers, such as the counters of
    batch norms, are copied.

    Args:
        module: The module.
        decay: From 0 to below 1.

    Attributes:
        updates: Number n of updates so far.
        average: The averages by name in the module's state dict, on the module's device.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = checks.between("decay", decay, 0, 0.999999)
        self.updates = 0
        # a parameter with two owners has two names in the state dict
        parameters = module.named_parameters(remove_duplicate=False)
        frozen = {name for name, parameter in parameters if not parameter.requires_grad}
        state = module.state_dict()
        self.average = {name: value.detach().clone() for name, value in state.items() if name not in frozen}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Update the averages with the current weights of ``module``."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for name, value in self._averaged(module):
            kept = self.average[name]
            if kept.is_floating_point():
                kept.lerp_(value.to(kept), 1 - decay)
            else:
                kept.copy_(value)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Replace the weights of ``module`` by the averages."""
        for name, value in self._averaged(module):
            value.copy_(self.average[name])

    @contextmanager
    def swapped_into(self, module: nn.Module) -> Iterator[None]:
        """Give ``module`` the averaged weights within the context, and its own afterwards."""
        own = [(value, value.clone()) for _, value in self._averaged(module)]
        self.copy_to(module)
        try:
            yield
        finally:
            with torch.no_grad():
                for value, kept in own:
                    value.copy_(kept)

    def state_dict(self) -> EmaState:
        """The state that :meth:`load_state_dict` restores."""
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state: EmaState) -> None:
        """Restore the averages of the same module; additional ones, such as of frozen parameters, are ignored.

        Raises:
            KeyError: An average is missing in the state.
        """
        self.updates = int(state["updates"])
        for name, kept in self.average.items():
            kept.copy_(state["average"][name])

    def _averaged(self, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
        """Names and current values, without gradients, of the averaged parameters and buffers."""
        return ((name, value) for name, value in module.state_dict().items() if name in self.average)
