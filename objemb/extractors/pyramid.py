"""Between map and crop: several passes over the photo, with each region pooled from the best scale for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.extractors._maps import FeatureMaps, Sampling
from objemb.extractors.base import ExtractionProgram, Extractor, Features
from objemb.ops.boxes import area
from objemb.ops.images import input_size
from objemb.ops.tensors import as_tensor
from objemb.pooling.base import Pooling
from objemb.registry import plugin
from objemb.structures import Photo, Regions


@plugin
class Pyramid(Extractor):
    """Pools each region from the feature map of the scale at which its size is nearest to a target.

    The size of a box is the square root of its area. Only scales that some region needs are computed.

    Args:
        sizes: Longest sides of the photo at the network's input, in pixels, one per scale.
        target: Size in input pixels that a region should have.
        sampling: ``"cells"`` or ``"aligned"``; see :class:`objemb.extractors._maps.Sampling`.
        samples: Samples of ``aligned`` in a box, per direction.
        masks: Whether the masks of regions weight the cells or samples.
    """

    def __init__(
        self,
        *,
        sizes: Sequence[int] = (257, 513, 1025, 2049),
        target: float = 225,
        sampling: str = "cells",
        samples: int = 7,
        masks: bool = False,
    ) -> None:
        self.sizes = tuple(sorted({checks.positive("sizes", s) for s in checks.several("sizes", sizes)}))
        self.target = checks.positive("target", target)
        self.sampling = Sampling(sampling, samples, masks)

    def extract(self, photos: Sequence[Photo], backbone: Backbone, scale: float = 1.0) -> Features:
        """See :meth:`Extractor.extract`. Nothing is computed before the regions are known."""
        return _PyramidFeatures(self, photos, backbone, checks.positive("scale", scale))

    def decode_side(self, scale: float = 1.0) -> int | None:
        """See :meth:`Extractor.decode_side`."""
        return math.ceil(self.sizes[-1] * scale)

    def program(self, backbone: Backbone, scale: float = 1.0) -> ExtractionProgram:
        """See :meth:`Extractor.program`; there is none."""
        raise TypeError(
            "extractor: expected one that can be exported, found pyramid, which computes the maps that its regions "
            "need: an exported graph computes the same ones for all photos"
        )

    def levels(self, regions: Regions) -> Tensor:
        """int64 ``(N,)``: the index of the size in ``sizes`` at which each region is nearest to the target (as a
        ratio)."""
        factors = torch.tensor(self.sizes) / max(regions.size)
        sides = area(as_tensor(regions.boxes)).clamp_min(1).sqrt()  # one-pixel boxes are pooled at the largest scale
        nearest: Tensor = (sides[:, None] * factors[None] / self.target).log().abs().argmin(dim=1)
        return nearest


class _PyramidFeatures(Features):
    def __init__(self, pyramid: Pyramid, photos: Sequence[Photo], backbone: Backbone, scale: float) -> None:
        self._pyramid, self._photos, self._backbone, self._scale = pyramid, photos, backbone, scale

    def pool(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        length, device = pooling.length(self._backbone.channels), self._backbone.device
        pooled = [torch.zeros(len(r), length, device=device) for r in regions]
        for level, rows in self._by_level(regions):
            chosen = [regions[i][r] for i, r in rows.items()]
            vectors = self._at(level, list(rows)).pool(chosen, pooling, self._pyramid.sampling)
            for (i, r), part in zip(rows.items(), vectors, strict=True):
                pooled[i][r.to(device)] = part.float()
        return pooled

    def local_features(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        none = torch.zeros(0, self._backbone.channels, device=self._backbone.device)
        cells = [[none] for _ in regions]
        for level, rows in self._by_level(regions):
            chosen = [regions[i][r] for i, r in rows.items()]
            features = self._at(level, list(rows)).local_features(chosen, pooling)
            for i, part in zip(rows, features, strict=True):
                cells[i].append(part)
        return [torch.cat(parts) for parts in cells]

    def _by_level(self, regions: Sequence[Regions]) -> Iterator[tuple[int, dict[int, Tensor]]]:
        """The levels that some region needs, with the rows of these regions for each photo that has any."""
        levels = [self._pyramid.levels(r) for r in regions]
        for level in range(len(self._pyramid.sizes)):
            rows = {i: (of_photo == level).nonzero().flatten() for i, of_photo in enumerate(levels)}
            needed = {i: r for i, r in rows.items() if len(r)}
            if needed:
                yield level, needed

    def _at(self, level: int, photos: Sequence[int]) -> FeatureMaps:
        """Maps of some photos at one scale."""
        chosen = [self._photos[i] for i in photos]
        target = self._pyramid.sizes[level] * self._scale
        multiple, smallest = self._backbone.multiple, self._backbone.smallest
        shapes = [input_size(p.size, target, "longest", multiple, smallest) for p in chosen]
        return FeatureMaps(chosen, shapes, self._backbone)
