"""The contract of a pooling."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from objemb.ops.rectangles import equal_rectangles, inside
from objemb.registry import Plugin


class Pooling(nn.Module, Plugin, ABC):
    """Sums up the cells of feature maps, one vector each, vectorised over everything.

    Results are *not* normalised: that is the describer's step, so that poolings can be fused over scales before it.
    """

    kind = "pooling"

    #: Length of the result per map channel (2 for a pooling that concatenates two statistics).
    expansion: int = 1

    def connect(self, channels: int) -> None:
        """Set the number of channels of the maps, once, before the first map.

        A pooling with state of that shape, such as a codebook, makes it here; others ignore it.

        Raises:
            RuntimeError: It was connected before.
            ValueError: It cannot pool so few channels.
        """

    def length(self, channels: int) -> int:
        """Length D of the vectors of maps with ``channels`` channels."""
        return channels * self.expansion

    @abstractmethod
    def forward(self, maps: Tensor, weights: Tensor | None = None) -> Tensor:
        """Pool whole maps.

        Args:
            maps: float ``(M, C, h, w)``.
            weights: float ``(M, h, w)`` in 0 to 1, how much of a cell belongs to the region (masks); None for all.
                A map whose weights are all 0 pools to zeros.

        Returns:
            float ``(M, D)``, D as :meth:`length` says.
        """

    def rectangles(self, maps: Tensor, cells: Tensor) -> Tensor:
        """Pool rectangles of cells, as R-MAC does.

        By default they are copied out, those of one shape together; poolings that can do without override this.

        Args:
            maps: float ``(B, C, h, w)``.
            cells: int64 ``(M, 5)``: map number, x1, y1, x2, y2 in cells; ``x2`` and ``y2`` are exclusive, every
                rectangle holds at least one cell. On the CPU, so that no accelerator is waited for.

        Returns:
            float ``(M, D)``, equal to ``forward(maps[b:b+1, :, y1:y2, x1:x2])`` for each row.
        """
        pooled = maps.new_empty(len(cells), self.length(maps.shape[1]))
        for rows, cut in equal_rectangles(maps, cells):
            pooled[rows] = self(cut)
        return pooled

    def counted(self, maps: Tensor, cells: Tensor) -> Tensor:
        """Which cells join the sum of each rectangle: all within it, unless a pooling selects some.

        A pooling that learns from cells learns from these.

        Args:
            maps: As for :meth:`rectangles`.
            cells: As for :meth:`rectangles`.

        Returns:
            bool ``(M, h, w)``, on the device of the maps.
        """
        return inside(cells[:, 1:], (maps.shape[2], maps.shape[3])).to(maps.device)
