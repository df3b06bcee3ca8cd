"""Activations of a network's feature map, chosen by a learned attention."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.detectors.capabilities import DetectorPass
from objemb.layers.learned_attention import LearnedAttention
from objemb.layers.local_attention import LocalAttention
from objemb.local_features._activations import SCALES, ActivationExtractor, Activations
from objemb.ops.tensors import l2
from objemb.registry import plugin
from objemb.structures import Photo
from objemb.weights.fill import fill, of_module
from objemb.weights.locate import existing_file, is_named
from objemb.weights.read import read_weights


@plugin
class Attentive(ActivationExtractor, LearnedAttention):
    """DELF (Noh, Araujo, Sim, Weyand and Han, "Large-scale image retrieval with attentive deep local features", ICCV
    2017; settings of Teichmann et al., "Detect-to-retrieve", CVPR 2019).

    ::

        map of each scale ──┬── attention ── strength ── the `count` strongest above `threshold` over all scales
                            └── l2 ── PCA ── l2 ── vectors

    The attention is learned by the task ``attend``, with the network frozen; until then extraction raises an error.

    Args:
        backbone: Computes the maps. Its setting ``layer`` chooses the stage: ``layer3`` of a ResNet-50.
        size: Longest side of a photo in pixels at scale 1; null, where the backbone is a map of a detector
            (``detector_trunk``), for that at which the detector takes it.
        scales: Factors on that size.
        count: The most features of a photo, over all scales.
        enlarge: Whether photos that are smaller are enlarged to that size.
        hidden: Units of the attention's hidden layer.
        threshold: Least strength of a feature. Strengths have no scale of their own: what the authors' network calls
            100 says nothing about another one.
        dim: Length of the vectors after the PCA; null for no PCA.
        power: Of the PCA's variances: 0 only turns, as in DELF; 0.5 whitens.
        weights: A model folder with such an extractor, as a run of ``attend`` leaves it: the weights of the backbone
            and of the attention are those there. None, or ``random``, for an attention that has not been trained.

    Attributes:
        attention: The network that weighs cells.
    """

    attention: LocalAttention

    def __init__(
        self,
        *,
        backbone: Backbone,
        size: float | None = 1024,
        scales: Sequence[float] = SCALES,
        count: int = 1000,
        enlarge: bool = True,
        hidden: int = 512,
        threshold: float = 0.0,
        dim: int | None = 128,
        power: float = 0.0,
        weights: str | Path | None = None,
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
        if is_named(weights):
            file = existing_file(weights, ())
            trained = nn.ModuleDict({"backbone": backbone, "attention": self.attention})
            fill(trained, of_module(trained, read_weights(file), file), file)
        self.threshold = checks.between("threshold", threshold, 0, float("inf"))

    def learned_attention(self) -> LearnedAttention:
        """See :meth:`LocalExtractor.learned_attention`."""
        return self

    @property
    def channels(self) -> int:
        """See :attr:`LearnedAttention.channels`."""
        return self.backbone.channels

    def class_layer(self) -> nn.Linear:
        """See :meth:`LearnedAttention.class_layer`."""
        return self.backbone.class_layer()

    def attended_means(self, photos: Sequence[Photo]) -> Tensor:
        """See :meth:`LearnedAttention.attended_means`: of the unit activations of all cells at scale 1."""
        means: dict[int, Tensor] = {}
        with torch.no_grad():
            batches = [(numbers, maps) for numbers, maps, _ in self.maps(photos, 1.0)]
        for numbers, maps in batches:
            weights = self.attention(maps).flatten(1)
            unit = F.normalize(maps, dim=1).flatten(2)
            means.update(zip(numbers, (unit @ weights[:, :, None]).squeeze(2) / weights.shape[1], strict=True))
        return torch.stack([means[n] for n in range(len(photos))])

    def activations(self, photos: Sequence[Photo], seen: DetectorPass | None = None) -> list[Activations]:
        """See :meth:`ActivationExtractor.activations`. Raises ``NotFittedError`` where the attention is fresh."""
        self.attention.check_trained()
        return [chosen.above(self.threshold) for chosen in super().activations(photos, seen)]

    def strengths(self, maps: Tensor) -> Tensor:
        """See :meth:`ActivationExtractor.strengths`: the weights of the attention."""
        weights: Tensor = self.attention(maps)
        return weights

    def normalised(self, vectors: Tensor) -> Tensor:
        """See :meth:`ActivationExtractor.normalised`: at unit length."""
        return l2(vectors)
