"""Activations of a network's feature map, chosen by a learned attention."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.layers.local_attention import LocalAttention
from objemb.local_features._activations import SCALES, ActivationExtractor, Activations
from objemb.ops.normalize import l2
from objemb.registry import plugin
from objemb.structures import Photo


@plugin
class Attentive(ActivationExtractor):
    """DELF (Noh, Araujo, Sim, Weyand and Han, "Large-scale image retrieval with attentive deep local features", ICCV
    2017; settings of Teichmann et al., "Detect-to-retrieve", CVPR 2019).

    ::

        map of each scale ──┬── attention ── strength ── the `count` strongest above `threshold` over all scales
                            └── l2 ── PCA ── l2 ── vectors

    The attention is learned by the task ``attend``, with the network frozen; until then extraction raises an error.

    Args:
        backbone: Computes the maps. Its setting ``layer`` chooses the stage: ``layer3`` of a ResNet-50.
        size: Longest side of a photo in pixels at scale 1.
        scales: Factors on that size.
        count: The most features of a photo, over all scales.
        enlarge: Whether photos that are smaller are enlarged to that size.
        hidden: Units of the attention's hidden layer.
        threshold: Least strength of a feature. Strengths have no scale of their own: what the authors' network calls
            100 says nothing about another one.
        dim: Length of the vectors after the PCA; null for no PCA.
        power: Of the PCA's variances: 0 only turns, as in DELF; 0.5 whitens.

    Attributes:
        attention: The network that weighs cells.
    """

    def __init__(
        self,
        *,
        backbone: Backbone,
        size: float = 1024,
        scales: Sequence[float] = SCALES,
        count: int = 1000,
        enlarge: bool = True,
        hidden: int = 512,
        threshold: float = 0.0,
        dim: int | None = 128,
        power: float = 0.0,
    ) -> None:
        super().__init__(
            backbone=backbone,
            size=size,
            scales=scales,
            count=count,
            enlarge=enlarge,
            dim=dim,
            power=power,
            unit=True,
        )
        self.attention = LocalAttention(backbone.channels, hidden)
        self.threshold = checks.between("threshold", threshold, 0, float("inf"))

    def attended_means(self, photos: Sequence[Photo]) -> Tensor:
        """The mean over all cells of unit activations times their weights, at scale 1: what the attention learns from.

        A gradient reaches the attention, not the backbone.

        Args:
            photos: At least one, of any sizes.

        Returns:
            float32 ``(B, C)`` on the device of the network.
        """
        means: dict[int, Tensor] = {}
        with torch.no_grad():
            batches = [(numbers, maps) for numbers, maps, _ in self.maps(photos, 1.0)]
        for numbers, maps in batches:
            weights = self.attention(maps).flatten(1)
            unit = F.normalize(maps, dim=1).flatten(2)
            means.update(zip(numbers, (unit @ weights[:, :, None]).squeeze(2) / weights.shape[1], strict=True))
        return torch.stack([means[n] for n in range(len(photos))])

    def activations(self, photos: Sequence[Photo]) -> list[Activations]:
        """See :meth:`ActivationExtractor.activations`. Raises ``NotFittedError`` where the attention is fresh."""
        self.attention.check_trained()
        return [chosen.above(self.threshold) for chosen in super().activations(photos)]

    def strengths(self, maps: Tensor) -> Tensor:
        """See :meth:`ActivationExtractor.strengths`: the weights of the attention."""
        weights: Tensor = self.attention(maps)
        return weights

    def normalised(self, vectors: Tensor) -> Tensor:
        """See :meth:`ActivationExtractor.normalised`: at unit length."""
        return l2(vectors)
