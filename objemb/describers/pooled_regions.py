"""Find regions, then pool a feature vector from each: the scheme of most methods."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.describers._pooled_program import PooledProgram
from objemb.describers.base import RowOfRegions
from objemb.describers.capabilities import CropEmbedder
from objemb.detectors.capabilities import NetworkDetector
from objemb.extractors.base import Extractor, Features
from objemb.ops.tensors import l2
from objemb.pooling.base import Pooling
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import Photo, Regions

FUSIONS = ("mean", "power")


@plugin
class PooledRegions(CropEmbedder):
    """Regions from a source, pooled from the features of an extractor; the scheme of MAC, GeM, R-MAC and hard
    attention.

    ::

        photo ──┬── grids, known without the network ── regions ──┐
                └── backbone ── features ─────────────────────────┴── pooling ── l2 ── mean over scales

    Args:
        regions: Chooses the regions.
        backbone: Computes the feature maps.
        extractor: Brings the pixels of a box to the backbone.
        pooling: Pools a region to a vector.
        scales: Factors on the extractor's input size; the vectors of a region are fused over them.
        fusion: ``"mean"`` of the unit vectors of the scales (deep image retrieval), or ``"power"``:
            ``mean(v ** p) ** (1 / p)`` of them, negative elements counting as 0 (GeM).
        fusion_power: p of ``"power"``.

    Regions that need a detector and have none (``rpn_proposals``) share that of the backbone ``detector_trunk``: one
    pass at the size of the extractor ``map`` gives boxes and features.

    Attributes:
        shared_detector: Whether regions and features come from one pass of one detector.

    Raises:
        ValueError: The regions need a detector, but the backbone is not a map of one, or the extractor is not ``map``.
    """

    regions: RegionSource

    def __init__(
        self,
        *,
        regions: RegionSource,
        backbone: Backbone,
        extractor: Extractor,
        pooling: Pooling,
        scales: Sequence[float] = (1.0,),
        fusion: str = "mean",
        fusion_power: float = 3.0,
    ) -> None:
        super().__init__(regions=regions, backbone=backbone, extractor=extractor, scales=scales)
        pooling.connect(backbone.channels)
        self.pooling = pooling
        self.fusion = checks.one_of("fusion", fusion, FUSIONS)
        self.fusion_power = checks.positive("fusion_power", fusion_power)
        self.shared_detector = regions.lacks_detector
        if self.shared_detector:
            detector = backbone.source_detector()
            if not isinstance(detector, NetworkDetector) or not extractor.one_map:
                raise ValueError(
                    "regions.detector: expected a detector, or a backbone that is a map of one (detector_trunk) with "
                    f"the extractor map, found none with the backbone {backbone.registry_name} and the extractor "
                    f"{extractor.registry_name}"
                )
            regions.share(detector)

    @property
    def raw_dim(self) -> int:
        """See :attr:`Describer.raw_dim`."""
        return self.pooling.length(self.backbone.channels)

    def embed_crops(self, pixels: Tensor) -> Tensor:
        """See :meth:`CropEmbedder.embed_crops`."""
        return self.embedded(self.pooling(self.backbone(pixels)))

    def embedded(self, pooled: Tensor) -> Tensor:
        """Unit vectors float32 ``(N, raw_dim)`` of one scale from what the pooling gave, float ``(N, D)``."""
        return l2(pooled.float())

    def pass_shapes(self, photo: Photo, regions: Regions) -> Hashable:
        """See :meth:`Describer.pass_shapes`."""
        return self.extractor.pass_shapes(photo, regions)

    def program(self, max_detections: int, row: RowOfRegions | None = None) -> PooledProgram:
        """See :meth:`Describer.program`."""
        return PooledProgram(self, max_detections, row)

    def _describe(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> tuple[list[Regions], Tensor]:
        """See :meth:`Describer._describe`. Rigid grids are laid on the map of the first scale."""
        regions, features = self._regions_and_features(photos, given, self.scales[0])
        pooled = [self._pool(features, regions)]
        del features  # the maps of one scale at a time
        pooled += [self._pool(self.features(photos, scale), regions) for scale in self.scales[1:]]
        return regions, self.fused(pooled)

    def _samples(self, part: str, photos: Sequence[Photo], given: Sequence[Regions | None]) -> list[Tensor]:
        """See :meth:`Describer._samples`. The pooling is fitted on the cells in the regions, at all scales; as in a
        description, these are the regions of the first scale."""
        if part != "pooling":
            return super()._samples(part, photos, given)
        regions, _ = self._regions_and_features(photos, given, self.scales[0])
        cells = [torch.zeros(0, self.backbone.channels)]
        for scale in self.scales:
            cells += [f.float().cpu() for f in self.features(photos, scale).local_features(regions, self.pooling)]
        return cells

    def _regions_and_features(
        self, photos: Sequence[Photo], given: Sequence[Regions | None], scale: float
    ) -> tuple[list[Regions], Features]:
        """The regions to describe and the features of photos at ``scale``; both from one pass of a shared detector. The
        boxes have no gradients."""
        if not self.shared_detector or all(g is not None for g in given):
            return self._regions_of(photos, given, scale), self.features(photos, scale)
        features, passes = self.extractor.extract_in_passes(photos, self.backbone, scale)
        regions: dict[int, Regions] = {}
        for numbers, seen in passes:
            with torch.no_grad():
                regions.update(zip(numbers, self.regions.find_in(seen, [photos[n] for n in numbers]), strict=True))
        return [regions[n] if g is None else g for n, g in enumerate(given)], features

    def _regions_of(self, photos: Sequence[Photo], given: Sequence[Regions | None], scale: float) -> list[Regions]:
        """The given regions, and those of the source for the other photos; rigid grids are laid at ``scale``."""
        asked = [photo for photo, g in zip(photos, given, strict=True) if g is None]
        if not asked:
            return [g for g in given if g is not None]
        chosen = iter(self.regions.find(asked, self.extractor.grids(asked, self.backbone, scale)))
        return [next(chosen) if g is None else g for g in given]

    def _pool(self, features: Features, regions: Sequence[Regions]) -> Tensor:
        """Unit vectors of all regions of all photos at one scale."""
        return self.embedded(torch.cat(features.pool(regions, self.pooling)))

    def fused(self, pooled: Sequence[Tensor]) -> Tensor:
        """The unit vectors ``(N, raw_dim)`` of all scales fused into one for each region."""
        if len(pooled) == 1:
            return pooled[0]
        if self.fusion == "mean":
            return l2(torch.stack(list(pooled)).mean(dim=0))
        powers = torch.stack([p.clamp_min(0) ** self.fusion_power for p in pooled])
        return l2(powers.mean(dim=0) ** (1 / self.fusion_power))
