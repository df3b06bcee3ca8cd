"""Sum pooling with a centre prior (Babenko and Lempitsky, "Aggregating local deep features", ICCV 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks
from objemb.ops.rectangles import inside, means_over_maps
from objemb.ops.weighting import weighted_mean
from objemb.pooling.base import Pooling
from objemb.registry import plugin


@plugin
class Spoc(Pooling):
    """The weighted mean of each channel, with larger weights for cells near the centre of the region.

    The weight of a cell is ``exp(-d ** 2 / (2 sigma ** 2))``, where d is the distance of its middle from the centre,
    and sigma a share of the distance from the centre to the nearest border. The centre is that of the region, or of the
    bounding rectangle of the cells with a weight. The mean has the same direction as the sum in the paper. Without the
    prior, this is ``mean``.

    Args:
        spread: Sigma as a share of the distance from the centre to the nearest border; 1/3 in the paper.
    """

    followed = True

    def __init__(self, *, spread: float = 1 / 3) -> None:
        super().__init__()
        self.spread = float(checks.positive("spread", spread))

    def forward(self, maps: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Pooling.forward`."""
        if weights is None:
            weights = maps.new_ones(1, *maps.shape[2:]).expand(len(maps), -1, -1)
        return weighted_mean(maps, self._prior(weights > 0).to(maps.dtype) * weights)

    def rectangles(self, maps: Tensor, cells: Tensor) -> Tensor:
        """See :meth:`Pooling.rectangles`."""
        held = inside(cells[:, 1:], (maps.shape[2], maps.shape[3])).to(maps.device)
        return means_over_maps(maps, cells[:, 0], self._prior(held))

    def _prior(self, held: Tensor) -> Tensor:
        """Weights ``(M, h, w)``: 1 for the cell of the region nearest to its centre, 0 outside the region."""
        y, height = _from_centre(held.any(dim=2))
        x, width = _from_centre(held.any(dim=1))
        sigma = self.spread * torch.minimum(height, width)[:, None, None] / 2
        # torch.where, since PyTorch 2.6 exports masked_fill of these squares as one of integers, which lack infinity
        squares = torch.where(held, y[:, :, None] ** 2 + x[:, None, :] ** 2, torch.inf)
        nearest = squares.amin(dim=(1, 2), keepdim=True)  # a region with a hole in it may have no cell near its centre
        return ((nearest - squares) / (2 * sigma**2)).exp().masked_fill(~held, 0)


def _from_centre(filled: Tensor) -> tuple[Tensor, Tensor]:
    """Distances ``(M, n)`` of cells from the middle of the filled ones ``(M, n)``, and the extent ``(M,)`` of these."""
    places = torch.arange(filled.shape[1], device=filled.device)
    last = places.masked_fill(~filled, -1).amax(dim=1)
    first = places.masked_fill(~filled, filled.shape[1]).amin(dim=1)
    return places - (first + last)[:, None] / 2, (last - first + 1).clamp_min(1)
