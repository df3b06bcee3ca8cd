"""Sum pooling of selected cells (Hoang et al., "Selective deep convolutional features for image retrieval", 2017)."""

from __future__ import annotations

from torch import Tensor

from objemb import checks
from objemb.ops.weighting import weighted_mean
from objemb.pooling._selection import SELECTIONS, selection
from objemb.pooling.base import Pooling
from objemb.registry import plugin


@plugin
class Selective(Pooling):
    """The mean of each channel over the cells that :func:`objemb.pooling._selection.selection` selects.

    Args:
        mask: ``"max"``, cells in which some channel has its maximum, or ``"sum"``, the more active half of the cells.
    """

    def __init__(self, *, mask: str = "max") -> None:
        super().__init__()
        self.mask = checks.one_of("mask", mask, SELECTIONS)

    def forward(self, maps: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Pooling.forward`."""
        chosen = selection(maps, weights, self.mask).to(maps.dtype)
        return weighted_mean(maps, chosen if weights is None else chosen * weights)
