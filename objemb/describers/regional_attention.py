"""Regions of a rigid grid that count as much as a small network says: regional attention."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from objemb.backbones.base import Backbone
from objemb.describers.base import checked_given
from objemb.describers.pooled_regions import PooledRegions
from objemb.extractors.base import Extraction, Extractor
from objemb.layers.context_attention import ContextAttention
from objemb.layers.projection import Projection
from objemb.ops.normalize import l2
from objemb.ops.rmac import first_summed
from objemb.pooling.max import Max
from objemb.pooling.mean import Mean
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import Photo, RegionDescriptors, Regions


@dataclass(frozen=True, eq=False)
class Attended:
    """Regions of a batch with what the network sees in them.

    Attributes:
        regions: Per photo.
        maxima: float ``(M, C)``, the largest activations in all regions of all photos, not normalised.
        weights: float ``(M,)``, how much each counts; with a gradient where one is wanted.
    """

    regions: list[Regions]
    maxima: Tensor
    weights: Tensor

    @property
    def counts(self) -> list[int]:
        """Regions of each photo."""
        return [len(r) for r in self.regions]


@plugin
class RegionalAttention(PooledRegions):
    """R-MAC whose regions are weighted (Kim and Yoon, "Regional attention based deep feature for image retrieval",
    BMVC 2018).

    ::

        map ──┬── max in each region ── PCA (shift + FC) ── l2 ────────────┐
              └── mean in each region ┬── attention ── weight a_r ─────────┴── sum of a_r phi_r (aggregator)
                  mean of the image ──┘

    The weights are the ``scores`` of the regions, for the aggregator ``sum`` with ``weighted: true``. The attention is
    learned by the task ``attend``; before, all regions count alike.

    Args:
        regions: Where to look.
        backbone: What is seen.
        extractor: One map per photo: ``map``.
        hidden: Units of the attention's hidden layer.
        activation: Of that layer, see :class:`objemb.layers.context_attention.ContextAttention`.
        dim: Length of the vectors after the PCA, which is learned from maxima as they are (the authors do not
            normalise before it); null for no PCA: unit vectors of maxima, which may then be whitened.
        power: Of the PCA's variances, see :class:`objemb.layers.whitening.Whitening`.
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
        self._mean = Mean()
        self.eval()

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return super().dim if self.projection is None or self.whitening is not None else self.projection.dim

    @torch.no_grad()
    def describe(
        self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None
    ) -> list[RegionDescriptors]:
        """See :meth:`Describer.describe`. Scores of regions are their weights.

        Raises:
            NotFittedError: The PCA has not learned yet.
        """
        if not photos:
            return []
        seen = self.attend(photos, regions)
        vectors = self._finish([self._project(seen.maxima)]).cpu().split(seen.counts)
        weights = seen.weights.cpu().split(seen.counts)
        return [
            RegionDescriptors(photo.id, replace(found, scores=of_photo), rows, photo.metadata)
            for photo, found, of_photo, rows in zip(photos, seen.regions, weights, vectors, strict=True)
        ]

    def attend(self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None) -> Attended:
        """Regions of at least one photo with their weights; the backbone is left as it is, no gradient reaches it.

        Args:
            photos: As for :meth:`describe`.
            regions: As for :meth:`describe`.
        """
        with torch.no_grad():
            extraction = self.extractor.see(photos, self.backbone)
            found = self._find(photos, checked_given(photos, regions), extraction)
            maxima = torch.cat(extraction.pool(found, self.pooling)).float()
            means = torch.cat(extraction.pool(found, self._mean)).float()
            images = _of_regions(extraction, found)
        return Attended(found, maxima, self.attention(means, images))

    @torch.no_grad()
    def samples(self, part: str, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None) -> Tensor:
        """See :meth:`Describer.samples`. The PCA learns from the maxima of the grid, which is what is summed up."""
        if part != "projection":
            return super().samples(part, photos, regions)
        if not photos:
            return torch.zeros(0, self.backbone.channels)
        seen = self.attend(photos, regions)
        rows = seen.maxima.cpu().split(seen.counts)
        return torch.cat([r[first_summed(found, False) :] for r, found in zip(rows, seen.regions, strict=True)])

    def _project(self, maxima: Tensor) -> Tensor:
        return l2(maxima if self.projection is None else self.projection(maxima))


def _of_regions(extraction: Extraction, found: Sequence[Regions]) -> Tensor:
    """The mean of the whole map ``(M, C)``, for each region of each photo."""
    means = torch.stack([one.mean(dim=(1, 2)) for one in extraction.maps]).float()
    return means.repeat_interleave(torch.tensor([len(f) for f in found], device=means.device), dim=0)
