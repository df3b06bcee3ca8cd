"""The fast way to look: one pass over the photo, regions pooled from its feature map."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.extractors._maps import FeatureMaps, Sampling
from objemb.extractors.base import Extraction, Extractor
from objemb.ops.images import SIDES, input_size
from objemb.pooling.base import Pooling
from objemb.registry import plugin
from objemb.structures import Photo, Regions


@plugin
class Map(Extractor):
    """Pools regions from one feature map per photo, as R-MAC does.

    Its cost does not depend on the number of regions, but a small object covers few cells, and each of them sees far
    beyond it: in clutter, ``crop`` finds much more.

    Args:
        size: Pixels of the photo's ``side`` when it enters the network.
        side: ``"longest"`` or ``"shortest"``.
        enlarge: Whether photos whose side has fewer pixels are enlarged; else they keep their size.
        sampling: ``"cells"`` or ``"aligned"``; see :class:`objemb.extractors._maps.Sampling`.
        samples: Values per direction that ``aligned`` takes under a box.
        masks: Whether masks of the regions weigh the cells or samples.
    """

    def __init__(
        self,
        *,
        size: int = 1025,
        side: str = "longest",
        enlarge: bool = True,
        sampling: str = "cells",
        samples: int = 7,
        masks: bool = False,
    ) -> None:
        self.size = checks.positive("size", size)
        self.side = checks.one_of("side", side, SIDES)
        self.enlarge = checks.flag("enlarge", enlarge)
        self.sampling = Sampling(sampling, samples, masks)

    def see(self, photos: Sequence[Photo], backbone: Backbone, scale: float = 1.0) -> Extraction:
        """See :meth:`Extractor.see`. The photos of a batch that share an input shape share one forward pass."""
        checks.positive("scale", scale)
        shapes = [
            input_size(p.size, self._target(p.size) * scale, self.side, backbone.multiple, backbone.smallest)
            for p in photos
        ]
        return _MapExtraction(FeatureMaps(photos, shapes, backbone), self.sampling)

    def decode_side(self, scale: float = 1.0) -> int | None:
        """See :meth:`Extractor.decode_side`; a shortest side says nothing about the longest."""
        return math.ceil(self.size * scale) if self.side == "longest" else None

    def for_part(self, part: tuple[int, int], whole: tuple[int, int]) -> Map:
        """See :meth:`Extractor.for_part`. The size is that of the photo's side, so a part gets its share of it."""
        smaller = copy.copy(self)
        smaller.size = self.size * self._length(part) / self._length(whole)
        return smaller

    def _target(self, size: tuple[int, int]) -> float:
        """Pixels that the side of a photo shall have, at scale 1."""
        return self.size if self.enlarge else min(self.size, self._length(size))

    def _length(self, size: tuple[int, int]) -> int:
        """Of the side that the size speaks of."""
        return max(size) if self.side == "longest" else min(size)


class _MapExtraction(Extraction):
    def __init__(self, maps: FeatureMaps, sampling: Sampling) -> None:
        self._maps, self._sampling = maps, sampling
        self.grids = maps.grids

    @property
    def maps(self) -> list[Tensor]:
        return self._maps.by_photo()

    def pool(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        return self._maps.pool(regions, pooling, self._sampling)

    def local_features(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        return self._maps.local_features(regions, pooling)
