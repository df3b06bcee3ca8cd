"""R-MAC as a network: every step from the pixels to the vector of an image can be learned."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.describers.base import checked_given
from objemb.describers.pooled_regions import PooledRegions
from objemb.extractors.base import Extraction, Extractor
from objemb.layers.projection import Projection
from objemb.ops.normalize import l2
from objemb.ops.rmac import first_summed
from objemb.pooling.base import Pooling
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import Photo, RegionDescriptors, Regions

OUTPUTS = ("regions", "image")


@plugin
class RmacNetwork(PooledRegions):
    """The descriptor network of Gordo et al., "Deep image retrieval", ECCV 2016, and "End-to-end learning of deep
    visual representations for image retrieval", IJCV 2017, section 3.

    ::

        photo ── backbone ── max in each region ── l2 ── projection (shift + FC) ── l2 ──┬── sum over regions ── l2
                                                                                         │
                                                       output: regions ──────────────────┴── output: image

    With ``regions`` the sum is left to the aggregator ``sum``, which gives the same vector of an image as the network,
    while ``keep`` makes each region searchable. With ``image`` the network sums by itself, at each scale over regions
    that are laid (or proposed) on the map of that scale, and adds up the unit vectors of the scales: the
    multi-resolution descriptor of both papers, where ``sum`` has nothing left to do.

    The projection is a fitted part: it starts as PCA whitening of region vectors, and may learn on from there with the
    backbone, see :class:`objemb.training.tasks.rank.Rank`.

    Args:
        regions: Where to look: ``rmac_grid``, or ``rpn_proposals`` as in the ECCV paper.
        backbone: What is seen.
        extractor: How the pixels reach the backbone; ``map``.
        pooling: How a region is summed up; ``max``.
        dim: Length of the vectors; None for that of the pooled ones.
        power: Of the variances in the projection's whitening, see :class:`objemb.layers.projection.Projection`.
        output: ``regions`` or ``image``, see above.
        whole_image: Whether the whole image joins the sum over regions, as for the aggregator ``sum``.
        scales: Factors on the extractor's input size.

    Attributes:
        projection: The shift and the fully connected layer.
        whitening: Applied to the unit vectors that come out; needless, since the projection whitens.
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
        self.eval()

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.projection.dim if self.whitening is None else self.whitening.dim

    def sees_boxes_in_photo(self, per_region: bool) -> bool:
        """See :meth:`Describer.sees_boxes_in_photo`. With ``output: image`` the row of a photo is a sum, whatever the
        aggregator."""
        return per_region and self.output == "regions"

    @torch.no_grad()
    def describe(
        self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None
    ) -> list[RegionDescriptors]:
        """See :meth:`Describer.describe`. With ``output: image`` the whole image is the only region of a photo; given
        boxes are regions, each with a vector of its own, with either output.

        Raises:
            NotFittedError: The projection has not learned yet.
        """
        if self.output == "regions":
            return super().describe(photos, regions)
        given = checked_given(photos, regions)
        if not photos:
            return []
        described = [Regions.whole(p.size) if g is None else g for p, g in zip(photos, given, strict=True)]
        seen = [self._outputs(photos, given, scale) for scale in self.scales]
        vectors = self._finish(seen).cpu().split([len(d) for d in described])
        return [
            RegionDescriptors(photo.id, where, rows, photo.metadata)
            for photo, where, rows in zip(photos, described, vectors, strict=True)
        ]

    def embed(self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None) -> Tensor:
        """Vectors of images at the first scale, with a gradient where one is wanted; without :attr:`whitening`.

        Args:
            photos: The batch.
            regions: Per photo the boxes to sum up instead of looking for some, or None, as for :meth:`describe`.

        Returns:
            float32 ``(B, projection.dim)``, unit vectors, on the device of the network; zeros where there is no box.

        Raises:
            NotFittedError: The projection has not learned yet.
        """
        given = checked_given(photos, regions)
        if not photos:
            return self.projection(self.projection.weight.new_zeros(0, self.projection.weight.shape[1]))
        seen, found = self._see(photos, given, self.scales[0])
        return self._sums(self._pool(seen, found), found)

    @torch.no_grad()
    def samples(self, part: str, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None) -> Tensor:
        """See :meth:`Describer.samples`. The projection learns from the pooled unit vectors of the regions that are
        summed up, at all scales, each with its own regions."""
        if part != "projection":
            return super().samples(part, photos, regions)
        given = checked_given(photos, regions)
        pooled = [torch.zeros(0, self.projection.weight.shape[1])]
        for scale in self.scales if photos else ():
            seen, found = self._see(photos, given, scale)
            pooled += self._summed(super()._pool(seen, found).cpu(), found)
        return torch.cat(pooled)

    def _see(
        self, photos: Sequence[Photo], given: Sequence[Regions | None], scale: float
    ) -> tuple[Extraction, list[Regions]]:
        """The photos at a scale, and the regions of each on its map."""
        seen = self.extractor.see(photos, self.backbone, scale)
        return seen, self._find(photos, given, seen)

    def _pool(self, seen: Extraction, found: Sequence[Regions]) -> Tensor:
        """Unit vectors of all regions of all photos, one scale."""
        return l2(self.projection(super()._pool(seen, found)))

    def _outputs(self, photos: Sequence[Photo], given: Sequence[Regions | None], scale: float) -> Tensor:
        """Of each photo the vectors of its given boxes, or that of the image, at one scale."""
        seen, found = self._see(photos, given, scale)
        vectors = self._pool(seen, found)
        images = self._sums(vectors, found)
        rows = vectors.split([len(f) for f in found])
        return torch.cat([images[i : i + 1] if g is None else rows[i] for i, g in enumerate(given)])

    def _sums(self, vectors: Tensor, found: Sequence[Regions]) -> Tensor:
        """Unit vectors ``(B, D)`` of images from those of their regions."""
        return l2(torch.stack([of_photo.sum(dim=0) for of_photo in self._summed(vectors, found)]))

    def _summed(self, vectors: Tensor, found: Sequence[Regions]) -> list[Tensor]:
        """Of each photo the vectors of the regions that join the sum."""
        rows = vectors.split([len(f) for f in found])
        return [of_photo[first_summed(f, self.whole_image) :] for of_photo, f in zip(rows, found, strict=True)]
