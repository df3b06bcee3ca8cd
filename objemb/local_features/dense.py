"""The strongest activations of a network's feature map as local features."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.local_features._activations import SCALES, ActivationExtractor
from objemb.registry import plugin


@plugin
class Dense(ActivationExtractor):
    """The strongest activations of a stage over an image pyramid, as in HOW (Tolias, Jenicek and Chum, "Learning and
    aggregating deep local descriptors for instance-level recognition", ECCV 2020).

    ::

        map of each scale ──┬── L2 norm ── strength ──────────────── the `count` strongest over all scales
                            └── local mean (smoothing) ── PCA whitening ── vectors

    HOW trains the network on the sum of these features; here, any trained network can be used. HOW does not normalise
    the whitened features (``unit: false``); with normalisation, weak and strong ones have equal weight.

    Args:
        backbone: Computes the maps. Its setting ``layer`` chooses the stage; HOW drops the last one of a ResNet-50.
        size: Longest side of a photo in pixels at scale 1. Null for the size that a detector chooses, if the backbone
            is one of its maps (``detector_trunk``).
        scales: Factors on that size.
        count: Maximum number of features of a photo, over all scales.
        enlarge: Whether smaller photos are enlarged to that size; in HOW, they are not.
        smoothing: Side, in cells, of the square over which activations are averaged, an odd number; 1 for none.
            Strengths are computed before.
        dim: Length of the vectors after PCA; null for no PCA.
        power: Exponent of the variances in the PCA: 0.5 for whitening, 0 for a rotation only.
        unit: Whether the vectors are normalised to unit length at the end.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        size: float | None = 1024,
        scales: Sequence[float] = SCALES,
        count: int = 1000,
        enlarge: bool = True,
        smoothing: int = 3,
        dim: int | None = 128,
        power: float = 0.5,
        unit: bool = True,
    ) -> None:
        super().__init__(
            backbone=backbone,
            size=size,
            scales=scales,
            count=count,
            enlarge=enlarge,
            dim=dim,
            power=power,
            unit=unit,
        )
        self.smoothing = checks.whole("smoothing", smoothing)
        if smoothing % 2 == 0:
            raise ValueError(f"smoothing: expected an odd number of cells, found {smoothing}")

    def strengths(self, maps: Tensor) -> Tensor:
        """See :meth:`ActivationExtractor.strengths`: L2 norms."""
        norms: Tensor = maps.norm(dim=1)
        return norms

    def prepared(self, maps: Tensor) -> Tensor:
        """See :meth:`ActivationExtractor.prepared`: local means, at the border over the existing cells only."""
        if self.smoothing == 1:
            return maps
        return F.avg_pool2d(maps, self.smoothing, 1, self.smoothing // 2, count_include_pad=False)
