"""Networks that always are in eval mode."""

from __future__ import annotations

import copy
from typing import Any, Self

from torch import nn


class Frozen(nn.Module):
    """A module that stays in eval mode, with all that is in it: what it gives must not depend on the batch.

    It is in eval mode from the start, and so are parts as soon as they are assigned, and copies (plain copies of
    ``torch.fx`` graphs are not). Its parameters may be trained nevertheless; a task that wants training mode as well,
    such as for the statistics of batch norms, sets the mode of that part alone.
    """

    def __init__(self) -> None:
        super().__init__()
        self.training = False

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.eval() if isinstance(value, nn.Module) else value)

    def add_module(self, name: str, module: nn.Module | None) -> None:
        """As that of ``nn.Module``, in eval mode."""
        super().add_module(name, None if module is None else module.eval())

    def __setstate__(self, state: dict[str, object]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # PyTorch has no type for it
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode, whatever ``mode`` says."""
        return super().train(False)

    def _with(self, **parts: object) -> Self:
        """A copy in which some attributes are replaced, and which shares everything else."""
        other = copy.copy(self)
        other._modules = dict(self._modules)  # a table of its own: otherwise this module would change as well
        for name, part in parts.items():
            setattr(other, name, part)
        return other
