"""Selective convolutional descriptor aggregation (Wei et al., "Selective convolutional descriptor aggregation for
fine-grained image retrieval", TIP 2017)."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb.ops.components import largest_component
from objemb.ops.tensors import l2
from objemb.ops.weighting import weighted_mean
from objemb.pooling._selection import or_all, region
from objemb.pooling.base import Pooling
from objemb.pooling.max import Max
from objemb.registry import plugin


@plugin
class Scda(Pooling):
    """The mean and the maximum of each channel over the main object, each normalised, concatenated.

    The main object is the largest 8-connected component of the cells whose sum over the channels is above the mean of
    these sums over the region; the whole region if there is no such cell, as in a region of a single cell.
    """

    expansion = 2
    not_exported = "whose main object is a connected component that SciPy finds"

    def __init__(self) -> None:
        super().__init__()
        self._max = Max()

    def forward(self, maps: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Pooling.forward`."""
        kept = main_object(maps, weights).to(maps.dtype)
        kept = kept if weights is None else kept * weights
        return torch.cat([l2(weighted_mean(maps, kept)), l2(self._max(maps, kept))], dim=1)


def main_object(maps: Tensor, weights: Tensor | None) -> Tensor:
    """The cells of the main object; see :class:`Scda`.

    Args:
        maps: float ``(M, C, h, w)``.
        weights: float ``(M, h, w)``; None for equal weights.

    Returns:
        bool ``(M, h, w)``.
    """
    inside = region(maps, weights)
    sums = maps.sum(dim=1, keepdim=True)
    mean = weighted_mean(sums, weights)[:, :, None]
    return or_all(largest_component((sums[:, 0] > mean) & inside), inside)
