"""An even sample of more vectors than fit into memory."""

from __future__ import annotations

import torch
from torch import Tensor

#: Seed of the priorities that vectors draw.
SEED = 0


class Reservoir:
    """At most ``most`` of all vectors that come by, each with the same chance, in the order in which they came.

    Every vector draws a random priority, and those with the smallest ones stay. Unlike every n-th vector, that cannot
    fall into step with the rows of a feature map. The same vectors give the same sample, always.

    Args:
        most: How many to keep; twice as many are in memory at most.

    Attributes:
        seen: How many have come by.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.seen = 0
        self._priorities: list[Tensor] = []
        self._kept: list[Tensor] = []
        self._held = 0
        self._bound = float("inf")
        self._generator = torch.Generator().manual_seed(SEED)

    def add(self, vectors: Tensor) -> None:
        """Let float ``(N, D)`` come by; they are copied to the CPU where they stay."""
        priorities = torch.rand(len(vectors), generator=self._generator, dtype=torch.float64)
        self.seen += len(vectors)
        rows = (priorities < self._bound).nonzero().flatten()
        if len(rows) == 0:
            return
        self._priorities.append(priorities[rows])
        self._kept.append(vectors[rows.to(vectors.device)].cpu())
        self._held += len(rows)
        if self._held > 2 * self.most:
            self._thin()

    def vectors(self) -> Tensor:
        """The sample ``(M, D)``, ``M <= most``; ``(0, 0)`` when nothing came by."""
        if not self._kept:
            return torch.zeros(0, 0)
        self._thin()
        return self._kept[0]

    def _thin(self) -> None:
        priorities, kept = torch.cat(self._priorities), torch.cat(self._kept)
        if len(priorities) > self.most:
            rows = priorities.argsort()[: self.most].sort().values
            priorities, kept = priorities[rows], kept[rows]
            self._bound = float(priorities.max())
        self._priorities, self._kept, self._held = [priorities], [kept], len(priorities)
