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
    """The weighted mean of each channel, with larger weights for more active cells and for sparser channels.

    With the activations ``X``, the weight of a cell is ``S ** (1 / power)``, where ``S`` is the sum of its channels,
    and that of a channel is ``log(sum of all Q / Q)``, where ``Q`` is the share of the region's cells in which it is
    above 0. The paper divides S by a number that is the same for all cells of a region, which does not change the
    direction of the vector. The variant without these weights, uCroW, is ``mean``.

    Activations are expected after a ReLU; negative sums from other layers are replaced by 0.

    Args:
        power: b in the paper; a larger value makes the weights of the cells more equal.
        spatial: Whether cells are weighted.
    """

    followed = True

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
