"""Mean of activations (sum pooling up to normalisation, SPoC without its centre prior)."""

from __future__ import annotations

from torch import Tensor

from objemb.ops.rectangles import rectangle_mean
from objemb.ops.weighting import weighted_mean
from objemb.pooling.base import Pooling
from objemb.registry import plugin


@plugin
class Mean(Pooling):
    """The mean of each channel, weighted if weights are given."""

    followed = True

    def forward(self, maps: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Pooling.forward`."""
        return weighted_mean(maps, weights)

    def rectangles(self, maps: Tensor, cells: Tensor) -> Tensor:
        """See :meth:`Pooling.rectangles`."""
        return rectangle_mean(maps, cells)
