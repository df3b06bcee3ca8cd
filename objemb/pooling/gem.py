"""Generalised mean (Radenovic, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation", 2018)."""

from __future__ import annotations

from torch import Tensor

from objemb import checks
from objemb.ops.rectangles import rectangle_mean
from objemb.ops.weighting import weighted_mean
from objemb.pooling.base import Pooling
from objemb.registry import plugin


@plugin
class Gem(Pooling):
    """``mean(max(x, eps) ** p) ** (1 / p)`` of each channel: the mean for ``p = 1``, nearly the maximum for large p.

    Args:
        p: The exponent.
        eps: Smallest activation, so that the power is defined for networks with negative activations.
    """

    followed = True

    def __init__(self, *, p: float = 3.0, eps: float = 1e-6) -> None:
        super().__init__()
        self.p = float(checks.positive("p", p))
        self.eps = float(checks.positive("eps", eps))

    def forward(self, maps: Tensor, weights: Tensor | None = None) -> Tensor:
        """See :meth:`Pooling.forward`."""
        powers, peaks = self._powers(maps)
        return weighted_mean(powers, weights) ** (1 / self.p) * peaks

    def rectangles(self, maps: Tensor, cells: Tensor) -> Tensor:
        """See :meth:`Pooling.rectangles`."""
        powers, peaks = self._powers(maps)
        return rectangle_mean(powers, cells) ** (1 / self.p) * peaks[cells[:, 0].to(maps.device)]

    def _powers(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """``(x / peak) ** p`` and the peaks ``(M, C)`` of the channels; dividing first keeps powers with large p
        finite."""
        positive = maps.clamp_min(self.eps)
        peaks = positive.amax(dim=(2, 3), keepdim=True)
        return (positive / peaks) ** self.p, peaks.flatten(1)
