"""R-MAC as a network: every step from the pixels to the vector of an image can be trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.describers._pooled_program import PooledProgram, SummedProgram
from objemb.describers.base import RowOfRegions, checked_given
from objemb.describers.capabilities import PhotoEmbedder
from objemb.describers.pooled_regions import PooledRegions
from objemb.extractors.base import Extractor
from objemb.layers.projection import Projection
from objemb.ops.rmac import first_summed
from objemb.ops.tensors import l2
from objemb.pooling.base import Pooling
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import Photo, Regions

OUTPUTS = ("regions", "image")


@plugin
class RmacNetwork(PooledRegions, PhotoEmbedder):
    """The descriptor network of Gordo et al., "Deep image retrieval", ECCV 2016, and "End-to-end learning of deep
    visual representations for image retrieval", IJCV 2017, section 3.

    ::

        photo ── backbone ── max in each region ── l2 ── projection (shift + FC) ── l2 ──┬── sum over regions ── l2
                                                                                         │
                                                       output: regions ──────────────────┴── output: image

    With ``regions``, the sum is left to the aggregator ``sum``, which gives the same vector of an image as the network,
    while ``keep`` makes each region searchable. With ``image``, the network itself sums, at each scale over the regions
    laid (or proposed) on the map of that scale, and adds the unit vectors of the scales. This is the multi-resolution
    descriptor of both papers; the aggregator ``sum`` then changes nothing.

    The projection is a fitted part: it is initialised as PCA whitening of region vectors, and may be trained further
    with the backbone, see :class:`objemb.training.tasks.rank.Rank`.

    Args:
        regions: Chooses the regions: ``rmac_grid``, or ``rpn_proposals`` as in the ECCV paper, without a detector of
            their own if the backbone is ``detector_trunk``: proposals and features then come from one network.
        backbone: Computes the feature maps.
        extractor: Brings the pixels to the backbone; ``map``.
        pooling: Pools a region to a vector; ``max``.
        dim: Dimension of the vectors; None for that of the pooled vectors.
        power: Power of the variances in the projection's whitening, see :class:`objemb.layers.projection.Projection`.
        output: ``regions`` or ``image``, see above.
        whole_image: Whether the whole image is part of the sum over regions, as for the aggregator ``sum``.
        scales: Factors on the extractor's input size.

    Attributes:
        projection: The shift and the fully connected layer.
        whitening: As for every describer; not needed, because the projection whitens.
    """

    def __init__(
        self,
        *,
        regions: RegionSource,
        backbone: Backbone,
        extractor: Extractor,
        pooling: Pooling,
        dim: int | None = None,
        power: float = 0.5,
        output: str = "regions",
        whole_image: bool = False,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__(regions=regions, backbone=backbone, extractor=extractor, pooling=pooling, scales=scales)
        length = pooling.length(backbone.channels)
        self.projection = Projection(length, length if dim is None else dim, power)
        self.output = checks.one_of("output", output, OUTPUTS)
        self.whole_image = checks.flag("whole_image", whole_image)

    @property
    def raw_dim(self) -> int:
        """See :attr:`Describer.raw_dim`."""
        return self.projection.dim

    def queries_in_context(self, per_region: bool) -> bool:
        """See :meth:`Describer.queries_in_context`. With ``output: image`` the row of a photo is a sum, whatever the
        aggregator."""
        return per_region and self.output == "regions"

    def embedded(self, pooled: Tensor) -> Tensor:
        """See :meth:`PooledRegions.embedded`."""
        return l2(self.projection(super().embedded(pooled)))

    def program(self, max_detections: int, row: RowOfRegions | None = None) -> PooledProgram:
        """See :meth:`Describer.program`."""
        made = SummedProgram if self.output == "image" else PooledProgram
        return made(self, max_detections, row)

    def embed_photos(
        self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None, *, factor: float = 1.0
    ) -> Tensor:
        """See :meth:`PhotoEmbedder.embed_photos`."""
        given = checked_given(photos, regions)
        if not photos:
            descriptors: Tensor = self.projection(self.projection.weight.new_zeros(0, self.projection.weight.shape[1]))
            return descriptors
        summed, features = self._regions_and_features(photos, given, self.scales[0] * factor)
        return self._sums(self._pool(features, summed), summed)

    def learnable(self) -> nn.ModuleDict:
        """See :meth:`PhotoEmbedder.learnable`: all parts but the one that chooses the regions."""
        return nn.ModuleDict({"backbone": self.backbone, "pooling": self.pooling, "projection": self.projection})

    def _describe(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> tuple[list[Regions], Tensor]:
        """See :meth:`Describer._describe`. With ``output: image``, the whole image is the only region of a photo. Each
        given box has its own vector with either output."""
        if self.output == "regions":
            return super()._describe(photos, given)
        regions = [Regions.whole(p.size) if g is None else g for p, g in zip(photos, given, strict=True)]
        return regions, self.fused([self._outputs(photos, given, scale) for scale in self.scales])

    def _samples(self, part: str, photos: Sequence[Photo], given: Sequence[Regions | None]) -> list[Tensor]:
        """See :meth:`Describer._samples`. The projection is fitted on the pooled unit vectors of the regions that are
        summed, at all scales, each with its own regions."""
        if part != "projection":
            return super()._samples(part, photos, given)
        pooled = [torch.zeros(0, self.projection.weight.shape[1])]
        for scale in self.scales if photos else ():
            regions, features = self._regions_and_features(photos, given, scale)
            maxima = torch.cat(features.pool(regions, self.pooling))
            pooled += self._summed(super().embedded(maxima).cpu(), regions)
        return pooled

    def _outputs(self, photos: Sequence[Photo], given: Sequence[Regions | None], scale: float) -> Tensor:
        """The vectors of the given boxes, or of the image, for each photo at one scale."""
        regions, features = self._regions_and_features(photos, given, scale)
        vectors = self._pool(features, regions)
        images = self._sums(vectors, regions)
        rows = vectors.split([len(r) for r in regions])
        return torch.cat([images[i : i + 1] if g is None else rows[i] for i, g in enumerate(given)])

    def _sums(self, vectors: Tensor, regions: Sequence[Regions]) -> Tensor:
        """Unit vectors ``(B, D)`` of images from those of their regions."""
        return l2(torch.stack([of_photo.sum(dim=0) for of_photo in self._summed(vectors, regions)]))

    def _summed(self, vectors: Tensor, regions: Sequence[Regions]) -> list[Tensor]:
        """The vectors of the summed regions of each photo."""
        rows = vectors.split([len(r) for r in regions])
        return [of_photo[first_summed(r, self.whole_image) :] for of_photo, r in zip(rows, regions, strict=True)]
