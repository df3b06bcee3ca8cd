"""A uniform sample of more vectors than fit into memory."""

from __future__ import annotations

import torch
from torch import Tensor

#: Seed of the random priorities.
SEED = 0


class Reservoir:
    """A uniform sample of at most ``most`` of all added vectors, in the order in which they were added.

    Each vector gets a random priority, and those with the smallest priorities are kept (reservoir sampling). Unlike
    taking every n-th vector, this cannot align with the rows of a feature map. The sample is deterministic.

    Args:
        most: Maximum size of the sample; at most twice as many vectors are in memory.

    Attributes:
        seen: Number of vectors added so far.
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
        """Add float vectors ``(N, D)``; those that are kept are copied to the CPU."""
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
        """The sample ``(M, D)``, ``M <= most``; ``(0, 0)`` if nothing was added."""
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
