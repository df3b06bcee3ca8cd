"""Training networks that refuse to leave eval mode."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def train_mode(network: nn.Module) -> Iterator[None]:
    """All layers of ``network`` behave as in training within: batch norms use, and learn, the statistics of batches.

    Backbones and describers stay in eval mode whatever ``train()`` is told, since a description must not depend on the
    batch that it is part of. A task that does want to train their norms says so here, for one forward pass.
    """
    before = [(module, module.training) for module in network.modules()]
    for module, _ in before:
        module.training = True
    try:
        yield
    finally:
        for module, mode in before:
            module.training = mode
