"""Two passes: where to look first, then what is seen there, summed up to a vector per region."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.describers.base import Describer, checked_given
from objemb.extractors.base import Extraction, Extractor
from objemb.layers.whitening import Whitening
from objemb.ops.normalize import l2
from objemb.pooling.base import Pooling
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import Photo, RegionDescriptors, Regions

FUSIONS = ("mean", "power")


@plugin
class PooledRegions(Describer):
    """Regions from a source, pooled from what an extractor sees; the scheme of MAC, GeM, R-MAC and hard attention.

    Args:
        regions: Where to look.
        backbone: What is seen.
        extractor: How the pixels under a box reach the backbone.
        pooling: How a region is summed up.
        scales: Factors on the extractor's input size; the vectors of a region are fused over them.
        fusion: ``"mean"`` of the unit vectors of the scales (deep image retrieval), or ``"power"``:
            ``mean(v ** p) ** (1 / p)`` of them, negative elements counting as 0 (GeM).
        fusion_power: p of ``"power"``.

    Attributes:
        whitening: Applied to the unit vectors, which are then brought to unit length again; None for none.
    """

    whitening: Whitening | None

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
        super().__init__()
        self.regions = regions
        self.backbone = backbone
        self.extractor = extractor
        pooling.connect(backbone.channels)
        self.pooling = pooling
        self.scales = tuple(checks.positive("scales", s) for s in checks.several("scales", scales))
        self.fusion = checks.one_of("fusion", fusion, FUSIONS)
        self.fusion_power = checks.positive("fusion_power", fusion_power)
        self.whitening = None
        self.eval()

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.pooling.length(self.backbone.channels) if self.whitening is None else self.whitening.dim

    def decode_side(self) -> int | None:
        """See :meth:`Describer.decode_side`. A detector may need more pixels than the map that is pooled."""
        side = self.extractor.decode_side(max(self.scales))
        return None if side is None else max(side, self.regions.decode_side())

    @torch.no_grad()  # not inference mode: its tensors could not be the targets of a loss
    def describe(
        self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None
    ) -> list[RegionDescriptors]:
        """See :meth:`Describer.describe`. Rigid grids are laid on the map of the first scale."""
        given = checked_given(photos, regions)
        if not photos:
            return []
        seen = self.extractor.see(photos, self.backbone, self.scales[0])
        found = self._find(photos, given, seen)
        pooled = [self._pool(seen, found)]
        del seen  # the maps of one scale at a time
        for scale in self.scales[1:]:
            pooled.append(self._pool(self.extractor.see(photos, self.backbone, scale), found))
        vectors = self._finish(pooled).cpu().split([len(f) for f in found])
        return [
            RegionDescriptors(photo.id, where, rows, photo.metadata)
            for photo, where, rows in zip(photos, found, vectors, strict=True)
        ]

    @torch.no_grad()
    def samples(self, part: str, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None) -> Tensor:
        """See :meth:`Describer.samples`. The pooling learns from the cells that count in the regions, at all scales."""
        if part != "pooling":
            return super().samples(part, photos, regions)
        features = [torch.zeros(0, self.backbone.channels)]
        given = checked_given(photos, regions)
        for scale in self.scales if photos else ():
            seen = self.extractor.see(photos, self.backbone, scale)
            found = self._find(photos, given, seen)
            given = list(found)  # as when describing, all scales see the regions of the first
            features += [f.float().cpu() for f in seen.local_features(found, self.pooling)]
        return torch.cat(features)

    def _find(self, photos: Sequence[Photo], given: Sequence[Regions | None], seen: Extraction) -> list[Regions]:
        """The given regions, and those of the source for the photos without any."""
        missing = [i for i, g in enumerate(given) if g is None]
        found = self.regions.find([photos[i] for i in missing], [seen.grids[i] for i in missing]) if missing else []
        complete = dict(zip(missing, found, strict=True))
        return [complete[i] if g is None else g for i, g in enumerate(given)]

    def _pool(self, seen: Extraction, found: Sequence[Regions]) -> Tensor:
        """Unit vectors of all regions of all photos, one scale."""
        return l2(torch.cat(seen.pool(found, self.pooling)).float())

    def _finish(self, pooled: Sequence[Tensor]) -> Tensor:
        """Scales fused, then whitened."""
        if len(pooled) == 1:
            fused = pooled[0]
        elif self.fusion == "mean":
            fused = l2(torch.stack(list(pooled)).mean(dim=0))
        else:
            powers = torch.stack([p.clamp_min(0) ** self.fusion_power for p in pooled])
            fused = l2(powers.mean(dim=0) ** (1 / self.fusion_power))
        return fused if self.whitening is None else self.whitening(fused)
