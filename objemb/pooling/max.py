"""Maximum of activations (MAC; over a grid of regions, R-MAC)."""

from __future__ import annotations

from torch import Tensor

from objemb.ops.rectangles import rectangle_max, rectangle_max_of_one
from objemb.pooling.base import Pooling
from objemb.registry import plugin


@plugin
class Max(Pooling):
    """The largest value of each channel. With weights, cells with weight 0 are left out; others are not weighted."""

    def forward(self, maps: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Pooling.forward`."""
        flat = maps.flatten(2)
        if weights is None:
            return flat.amax(dim=2)
        inside = (weights > 0).flatten(1)[:, None]
        largest = flat.masked_fill(~inside, float("-inf")).amax(dim=2)
        return largest.masked_fill(~inside.any(dim=2), 0)

    def rectangles(self, maps: Tensor, cells: Tensor) -> Tensor:
        """See :meth:`Pooling.rectangles`."""
        return rectangle_max(maps, cells)

    def rectangles_of_one(self, map_: Tensor, cells: Tensor) -> Tensor:
        """See :meth:`Pooling.rectangles_of_one`."""
        return rectangle_max_of_one(map_, cells)
