"""Networks that are always in eval mode."""

from __future__ import annotations

import copy
from typing import Any, Self

from torch import nn


class Frozen(nn.Module):
    """A module that stays in eval mode with all its submodules, so that its output does not depend on the batch.

    Submodules are put into eval mode when they are assigned, and copies stay in eval mode (plain copies of ``torch.fx``
    graphs do not). Parameters may be trained nevertheless; a task that needs training mode, such as for the statistics
    of batch norms, sets the mode of only that part.
    """

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.eval() if isinstance(value, nn.Module) else value)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """As in ``nn.Module``; the module is put into eval mode."""
        super().add_module(name, None if module is None else module.eval())

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # PyTorch has no type for it
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in eval mode, whatever the ``mode``."""
        return super().train(False)

    def _with(self, **parts: object) -> Self:
        """A copy in which some attributes are replaced, and which shares everything else."""
        other = copy.copy(self)
        other._modules = dict(self._modules)  # a separate table, so that this module is not changed
        for name, part in parts.items():
            setattr(other, name, part)
        return other
