"""Regions of a rigid grid, weighted by a small network: regional attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from objemb.backbones.base import Backbone
from objemb.describers._pooled_program import AttendedProgram
from objemb.describers.base import RowOfRegions, checked_given
from objemb.describers.pooled_regions import PooledRegions
from objemb.extractors.base import Extractor, Features
from objemb.layers.context_attention import ContextAttention
from objemb.layers.learned_attention import LearnedAttention
from objemb.layers.projection import Projection
from objemb.ops.rmac import first_summed
from objemb.ops.tensors import l2
from objemb.pooling.max import Max
from objemb.pooling.mean import Mean
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import Photo, Regions


@dataclass(frozen=True, eq=False)
class AttendedRegions:
    """Regions of a batch with their weights.

    Attributes:
        regions: The regions of each photo.
        maxima: float ``(M, C)``, the largest activations in all regions of all photos, not normalised.
        weights: float ``(M,)``, the weight of each region; differentiable.
    """

    regions: list[Regions]
    maxima: Tensor
    weights: Tensor

    @property
    def counts(self) -> list[int]:
        """Number of regions of each photo."""
        return [len(r) for r in self.regions]


@plugin
class RegionalAttention(PooledRegions, LearnedAttention):
    """R-MAC whose regions are weighted (Kim and Yoon, "Regional attention based deep feature for image retrieval",
    BMVC 2018).

    ::

        map ──┬── max in each region ── PCA (shift + FC) ── l2 ────────────┐
              └── mean in each region ┬── attention ── weight a_r ─────────┴── sum of a_r phi_r (aggregator)
                  mean of the image ──┘

    The weights are the ``scores`` of the regions, for the aggregator ``sum`` with ``weighted: true``. The attention is
    trained by the task ``attend``; before that, all regions have the same weight.

    Args:
        regions: Chooses the regions.
        backbone: Computes the feature maps.
        extractor: An extractor with one map per photo: ``map``.
        hidden: Units of the attention's hidden layer.
        activation: Activation of that layer, see :class:`objemb.layers.context_attention.ContextAttention`.
        dim: Dimension after the PCA, which is fitted on maxima without normalisation, as in the paper; null for no PCA:
            unit vectors of maxima, which may then be whitened.
        power: Power of the PCA's variances, see :class:`objemb.layers.whitening.Whitening`.
    """

    def __init__(
        self,
        *,
        regions: RegionSource,
        backbone: Backbone,
        extractor: Extractor,
        hidden: int = 64,
        activation: str = "tanh",
        dim: int | None = None,
        power: float = 0.5,
    ) -> None:
        super().__init__(regions=regions, backbone=backbone, extractor=extractor, pooling=Max())
        self.attention = ContextAttention(backbone.channels, hidden, activation)
        self.projection = None if dim is None else Projection(backbone.channels, dim, power)
        self.mean = Mean()

    @property
    def raw_dim(self) -> int:
        """See :attr:`Describer.raw_dim`."""
        return super().raw_dim if self.projection is None else self.projection.dim

    def embedded(self, pooled: Tensor) -> Tensor:
        """See :meth:`PooledRegions.embedded`."""
        return l2(pooled.float() if self.projection is None else self.projection(pooled.float()))

    def program(self, max_detections: int, row: RowOfRegions | None = None) -> AttendedProgram:
        """See :meth:`Describer.program`."""
        return AttendedProgram(self, max_detections, row)

    def attend(self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None) -> AttendedRegions:
        """Regions of at least one photo with their weights, differentiable in the attention, not in the backbone.

        Args:
            photos: As for :meth:`describe`.
            regions: As for :meth:`describe`.
        """
        given = checked_given(photos, regions)
        with torch.no_grad():
            attended, features = self._regions_and_features(photos, given, self.scales[0])
            maxima = torch.cat(features.pool(attended, self.pooling)).float()
            means = torch.cat(features.pool(attended, self.mean)).float()
            images = _means_of_images(features, attended)
        return AttendedRegions(attended, maxima, self.attention(means, images))

    def learned_attention(self) -> LearnedAttention:
        """See :meth:`PhotoDescriber.learned_attention`."""
        return self

    @property
    def channels(self) -> int:
        """See :attr:`LearnedAttention.channels`."""
        return self.backbone.channels

    def class_layer(self) -> nn.Linear:
        """See :meth:`LearnedAttention.class_layer`."""
        return self.backbone.class_layer()

    def attended_means(self, photos: Sequence[Photo]) -> Tensor:
        """See :meth:`LearnedAttention.attended_means`: means of the maxima of the grid, which the model sums."""
        attended = self.attend(photos)
        weighted = (attended.maxima * attended.weights[:, None]).split(attended.counts)
        grids = (rows[first_summed(r, False) :] for rows, r in zip(weighted, attended.regions, strict=True))
        return torch.stack([of_grid.mean(dim=0) for of_grid in grids])

    def _describe(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> tuple[list[Regions], Tensor]:
        """See :meth:`Describer._describe`. Scores of regions are their weights."""
        attended = self.attend(photos, given)
        weights = attended.weights.cpu().split(attended.counts)
        regions = [replace(r, scores=w) for r, w in zip(attended.regions, weights, strict=True)]
        return regions, self.embedded(attended.maxima)

    def _samples(self, part: str, photos: Sequence[Photo], given: Sequence[Regions | None]) -> list[Tensor]:
        """See :meth:`Describer._samples`. The PCA is fitted on the maxima of the grid, which the model sums."""
        if part != "projection":
            return super()._samples(part, photos, given)
        if not photos:
            return [torch.zeros(0, self.backbone.channels)]
        attended = self.attend(photos, given)
        rows = attended.maxima.split(attended.counts)
        return [r[first_summed(of_photo, False) :] for r, of_photo in zip(rows, attended.regions, strict=True)]


def _means_of_images(features: Features, regions: Sequence[Regions]) -> Tensor:
    """The mean of the whole map ``(M, C)``, for each region of each photo."""
    means = torch.stack([one.mean(dim=(1, 2)) for one in features.maps]).float()
    return means.repeat_interleave(torch.tensor([len(r) for r in regions], device=means.device), dim=0)
