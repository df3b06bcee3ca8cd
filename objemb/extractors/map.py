"""The fast extractor: one pass over the photo, with regions pooled from its feature map."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.detectors.capabilities import DetectorPass, NetworkDetector
from objemb.extractors._maps import FeatureMaps, Sampling, map_grids
from objemb.extractors._program import MapProgram
from objemb.extractors.base import Extractor, Features
from objemb.ops.grid import Grid
from objemb.ops.images import SIDES, input_size
from objemb.pooling.base import Pooling
from objemb.registry import plugin
from objemb.structures import Photo, Regions


@plugin
class Map(Extractor):
    """Pools regions from one feature map per photo, as R-MAC does.

    Its cost does not depend on the number of regions, but a small object covers few cells, whose receptive fields
    extend far beyond it: in clutter, ``crop`` finds far more objects.

    Args:
        size: Length of the photo's ``side`` at the network's input, in pixels.
        side: ``"longest"`` or ``"shortest"``.
        enlarge: Whether smaller photos are enlarged; otherwise they keep their size.
        sampling: ``"cells"`` or ``"aligned"``; see :class:`objemb.extractors._maps.Sampling`.
        samples: Samples of ``aligned`` in a box, per direction.
        masks: Whether the masks of regions weight the cells or samples.
    """

    one_map = True

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
        self.size: float = checks.positive("size", size)
        self.side = checks.one_of("side", side, SIDES)
        self.enlarge = checks.flag("enlarge", enlarge)
        self.sampling = Sampling(sampling, samples, masks)

    def grids(self, photos: Sequence[Photo], backbone: Backbone, scale: float = 1.0) -> list[Grid]:
        """See :meth:`Extractor.grids`."""
        return map_grids(photos, self._shapes(photos, backbone, scale), backbone)

    def extract(self, photos: Sequence[Photo], backbone: Backbone, scale: float = 1.0) -> Features:
        """See :meth:`Extractor.extract`. The photos of a batch that share an input shape share one forward pass."""
        return _MapFeatures(FeatureMaps(photos, self._shapes(photos, backbone, scale), backbone), self.sampling)

    def extract_in_passes(
        self, photos: Sequence[Photo], backbone: Backbone, scale: float = 1.0
    ) -> tuple[Features, list[tuple[list[int], DetectorPass]]]:
        """See :meth:`Extractor.extract_in_passes`. The detector takes photos at the size of this extractor."""
        detector = backbone.source_detector()
        if not isinstance(detector, NetworkDetector):
            raise TypeError(f"backbone: expected a map of a detector (detector_trunk), found {backbone.registry_name}")
        maps = FeatureMaps(photos, self._shapes(photos, backbone, scale), backbone, detector)
        return _MapFeatures(maps, self.sampling), maps.passes

    def program(self, backbone: Backbone, scale: float = 1.0) -> MapProgram:
        """See :meth:`Extractor.program`."""
        if self.sampling.masks:
            raise TypeError("extractor: expected masks: false for an exported model, whose boxes have none, found true")
        return MapProgram(backbone, self.size, self.side, self.enlarge, self.sampling, scale)

    def decode_side(self, scale: float = 1.0) -> int | None:
        """See :meth:`Extractor.decode_side`; None for the shortest side, which does not limit the longest."""
        return math.ceil(self.size * scale) if self.side == "longest" else None

    def for_part(self, part: tuple[int, int], whole: tuple[int, int]) -> Map:
        """See :meth:`Extractor.for_part`. The size of a part is its share of the size of the photo."""
        smaller = copy.copy(self)
        smaller.size = self.size * self._length(part) / self._length(whole)
        return smaller

    def _shapes(self, photos: Sequence[Photo], backbone: Backbone, scale: float) -> list[tuple[int, int]]:
        """``(height, width)`` of the network's input for each photo."""
        checks.positive("scale", scale)
        return [
            input_size(p.size, self._target(p.size) * scale, self.side, backbone.multiple, backbone.smallest)
            for p in photos
        ]

    def _target(self, size: tuple[int, int]) -> float:
        """Length to which the side of a photo is resized at scale 1, in pixels."""
        return self.size if self.enlarge else min(self.size, self._length(size))

    def _length(self, size: tuple[int, int]) -> int:
        """Length of the side that ``size`` refers to, in pixels."""
        return max(size) if self.side == "longest" else min(size)


class _MapFeatures(Features):
    def __init__(self, maps: FeatureMaps, sampling: Sampling) -> None:
        self._maps, self._sampling = maps, sampling

    @property
    def maps(self) -> list[Tensor]:
        return self._maps.by_photo()

    @property
    def grids(self) -> list[Grid]:
        return self._maps.grids

    def pool(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        return self._maps.pool(regions, pooling, self._sampling)

    def local_features(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        return self._maps.local_features(regions, pooling)
