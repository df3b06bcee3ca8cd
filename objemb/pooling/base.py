"""The contract of a pooling."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from objemb.ops.rectangles import equal_rectangles, inside
from objemb.registry import Plugin


class Pooling(nn.Module, Plugin, ABC):
    """Pools the cells of feature maps to one vector each, vectorised over everything.

    Results are *not* normalised; the describer does that.
    """

    kind = "pooling"

    #: Length of the result per channel of the map (2 for a pooling that concatenates two statistics).
    expansion: int = 1
    #: Whether :meth:`rectangles` of a single map does what exporters can follow: nothing depends on values.
    followed: bool = False
    #: Why no exporter can follow it at all; None where one can.
    not_exported: str | None = None

    def connect(self, channels: int) -> None:
        """Set the number of channels of the maps, once, before the first map.

        A pooling with state of that shape, such as a codebook, creates it here; others ignore it.

        Raises:
            RuntimeError: The pooling is already connected.
            ValueError: There are too few channels for the pooling.
        """

    def length(self, channels: int) -> int:
        """Length D of the vectors of maps with ``channels`` channels."""
        return channels * self.expansion

    @abstractmethod
    def forward(self, maps: Tensor, weights: Tensor | None = None) -> Tensor:
        """Pool whole maps.

        Args:
            maps: float ``(M, C, h, w)``.
            weights: float ``(M, h, w)``, 0 to 1, the share of each cell that belongs to the region (masks); None for
                all cells. A map whose weights are all 0 is pooled to zeros.

        Returns:
            float ``(M, D)``, with D from :meth:`length`.
        """

    def rectangles(self, maps: Tensor, cells: Tensor) -> Tensor:
        """Pool rectangles of cells, as R-MAC does.

        By default, rectangles of one shape are copied and pooled together; poolings that need no copies override this.

        Args:
            maps: float ``(B, C, h, w)``.
            cells: int64 ``(M, 5)``: index of the map, x1, y1, x2, y2 in cells; ``x2`` and ``y2`` are exclusive, and
                every rectangle has at least one cell. On the CPU, to avoid synchronisation with an accelerator.

        Returns:
            float ``(M, D)``, equal to ``forward(maps[b:b+1, :, y1:y2, x1:x2])`` for each row.
        """
        pooled = maps.new_empty(len(cells), self.length(maps.shape[1]))
        for rows, cut in equal_rectangles(maps, cells):
            pooled[rows] = self(cut)
        return pooled

    def rectangles_of_one(self, map_: Tensor, cells: Tensor) -> Tensor:
        """Pool rectangles of a single map by operations that exporters can follow, with the result of
        :meth:`rectangles`.

        By default that is :meth:`rectangles` where it is ``followed``, else :meth:`forward` with the cells outside of
        each rectangle weighing nothing.

        Args:
            map_: float ``(1, C, h, w)``.
            cells: int64 ``(N, 4)``: x1, y1, x2, y2 in cells, as for :meth:`rectangles`.

        Returns:
            float ``(N, D)``.
        """
        if self.followed:
            return self.rectangles(map_, F.pad(cells, (1, 0)))
        weights = inside(cells, (map_.shape[2], map_.shape[3])).to(map_)
        pooled: Tensor = self(map_.expand(cells.shape[0], -1, -1, -1), weights)
        return pooled

    def counted(self, maps: Tensor, cells: Tensor) -> Tensor:
        """The cells of each rectangle that are pooled: all cells in it, unless a pooling selects some.

        A pooling that is fitted on cells is fitted on these.

        Args:
            maps: As for :meth:`rectangles`.
            cells: As for :meth:`rectangles`.

        Returns:
            bool ``(M, h, w)``, on the device of the maps.
        """
        return inside(cells[:, 1:], (maps.shape[2], maps.shape[3])).to(maps.device)
