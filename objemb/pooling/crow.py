"""Cross-dimensional weighting (Kalantidis, Mellina and Osindero, "Cross-dimensional weighting for aggregated deep
convolutional features", 2016)."""

from __future__ import annotations

from torch import Tensor

from objemb import checks
from objemb.ops.rectangles import rectangle_mean
from objemb.ops.weighting import rarity, weighted_mean
from objemb.pooling.base import Pooling
from objemb.registry import plugin


@plugin
class Crow(Pooling):
    """The mean of each channel, with a larger weight for more active cells, then times the rarity of the channel.

    With the activations ``X``, a cell weighs ``S ** (1 / power)`` where ``S`` is the sum of its channels, and a channel
    ``log(sum of all Q / Q)`` where ``Q`` is the share of the region's cells in which it is above 0. What the paper
    divides S by is one number per region, as is the area: neither changes a direction. The variant without either
    weight, uCroW, is ``mean``.

    Activations are those behind a ReLU; sums below 0, which other layers may give, count as 0.

    Args:
        power: b of the paper; the larger, the more equal are the weights of the cells.
        spatial: Whether cells are weighted at all.
    """

    def __init__(self, *, power: float = 2.0, spatial: bool = True) -> None:
        super().__init__()
        self.power = float(checks.positive("power", power))
        self.spatial = checks.flag("spatial", spatial)

    def forward(self, maps: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Pooling.forward`."""
        busy = self._busy(maps)
        if busy is not None and weights is not None:
            busy = busy * weights
        mean = weighted_mean(maps, weights if busy is None else busy)
        return mean * rarity(weighted_mean(_active(maps), weights))

    def rectangles(self, maps: Tensor, cells: Tensor) -> Tensor:
        """See :meth:`Pooling.rectangles`."""
        return rectangle_mean(maps, cells, self._busy(maps)) * rarity(rectangle_mean(_active(maps), cells))

    def _busy(self, maps: Tensor) -> Tensor | None:
        """Weights of the cells ``(M, h, w)``."""
        return maps.sum(dim=1).clamp_min(0) ** (1 / self.power) if self.spatial else None


def _active(maps: Tensor) -> Tensor:
    return (maps > 0).to(maps.dtype)
