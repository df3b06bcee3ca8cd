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

        map of each scale ──┬── attention ── strength ── the `count` strongest over all scales, from `threshold` on
                            └── l2 ── PCA ── l2 ── vectors

    The attention is trained by the task ``attend`` with the network frozen; until then, extraction raises an error.

    Args:
        backbone: Computes the maps. Its setting ``layer`` chooses the stage; DELF uses ``layer3`` of a ResNet-50.
        size: Longest side of a photo in pixels at scale 1. Null for the size that a detector chooses, if the backbone
            is one of its maps (``detector_trunk``).
        scales: Factors on that size.
        count: Maximum number of features of a photo, over all scales.
        enlarge: Whether smaller photos are enlarged to that size.
        hidden: Number of units in the attention's hidden layer.
        threshold: Minimum strength of a feature. The scale of strengths differs between networks, so that the authors'
            100 does not apply to another one.
        dim: Length of the vectors after PCA; null for no PCA.
        power: Exponent of the variances in the PCA: 0 for a rotation only, as in DELF, 0.5 for whitening.
        weights: A model folder with such an extractor, for instance from a run of ``attend``, from which the weights of
            the backbone and the attention are read. None or ``random`` for an untrained attention.

    Attributes:
        attention: The network that computes the strengths.
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
        """See :meth:`LearnedAttention.attended_means`: over the normalised activations of all cells at scale 1."""
        means: dict[int, Tensor] = {}
        with torch.no_grad():
            batches = [(numbers, maps) for numbers, maps, _ in self.maps(photos, 1.0)]
        for numbers, maps in batches:
            weights = self.attention(maps).flatten(1)
            unit = F.normalize(maps, dim=1).flatten(2)
            means.update(zip(numbers, (unit @ weights[:, :, None]).squeeze(2) / weights.shape[1], strict=True))
        return torch.stack([means[n] for n in range(len(photos))])

    def activations(self, photos: Sequence[Photo], seen: DetectorPass | None = None) -> list[Activations]:
        """See :meth:`ActivationExtractor.activations`. Raises ``NotFittedError`` if the attention is untrained."""
        self.attention.check_trained()
        return [chosen.above(self.threshold) for chosen in super().activations(photos, seen)]

    def strengths(self, maps: Tensor) -> Tensor:
        """See :meth:`ActivationExtractor.strengths`: the outputs of the attention."""
        weights: Tensor = self.attention(maps)
        return weights

    def normalised(self, vectors: Tensor) -> Tensor:
        """See :meth:`ActivationExtractor.normalised`: unit vectors."""
        return l2(vectors)
