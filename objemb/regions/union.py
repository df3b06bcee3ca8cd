"""Regions of several sources, without near-duplicates and with a budget per photo."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Self, cast

import numpy as np
import torch

from objemb import checks
from objemb.detectors.capabilities import DetectorPass, NetworkDetector
from objemb.ops.boxes import nms
from objemb.ops.grid import Grid
from objemb.ops.tensors import as_tensor
from objemb.regions._program import JoinedRegions
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import NO_LABEL, Photo, Regions


@plugin
class Union(RegionSource):
    """The whole image, then the boxes of several sources, in the order of the sources.

    An object in no box cannot be matched by its box. Detections joined with proposals or patches leave less of a photo
    without a row, at the cost of more rows. A box of an earlier source is preferred to its near-duplicates, so
    that the sources with labels come first.

    Class names are joined: two sources mean the same class if its name is the same. Extras, such as masks, are kept if
    all parts have them.

    Args:
        of: The sources, at least one.
        nms_iou: A box whose IoU with a box before it exceeds this is dropped; 1 keeps all.
        max_regions: Maximum number of boxes per photo, in addition to the whole image.
        fill_to: If given, a source is used only for photos in which the sources before it found fewer boxes than
            this; None to use all sources for all photos.

    Attributes:
        detector: Detector of the first source that has one; None if none has.
    """

    def __init__(
        self,
        *,
        of: Sequence[RegionSource],
        nms_iou: float = 0.7,
        max_regions: int = 50,
        fill_to: int | None = None,
    ) -> None:
        super().__init__()
        if not of:
            raise ValueError("of: expected at least one source of regions, found none")
        self.of = torch.nn.ModuleList(of)
        self.nms_iou = checks.between("nms_iou", nms_iou, 0, 1)
        self.max_regions = checks.whole("max_regions", max_regions, 0)
        self.fill_to = None if fill_to is None else checks.whole("fill_to", fill_to)
        self._take_detector()

    @property
    def sources(self) -> list[RegionSource]:
        """The sources, in order."""
        return [cast(RegionSource, source) for source in self.of]

    @property
    def lacks_detector(self) -> bool:
        """See :attr:`RegionSource.lacks_detector`."""
        return self.sources[0].lacks_detector

    def find(self, photos: Sequence[Photo], grids: Sequence[Grid] | None = None) -> list[Regions]:
        """See :meth:`RegionSource.find`."""

        def found(source: RegionSource, rows: list[int]) -> list[Regions]:
            return source.find([photos[i] for i in rows], None if grids is None else [grids[i] for i in rows])

        return self._joined([photo.size for photo in photos], found)

    def objects(self, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`RegionSource.objects`: only sources with a detector know objects."""
        known = [source for source in self.sources if source.detector is not None]
        return self._joined(
            [photo.size for photo in photos], lambda source, rows: source.objects([photos[i] for i in rows]), known
        )

    def find_in(self, seen: DetectorPass, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`RegionSource.find_in`. Sources without the detector of the pass find theirs on their own."""

        def found(source: RegionSource, rows: list[int]) -> list[Regions]:
            if source.detector is None or source.detector is not self.detector:
                return source.find([photos[i] for i in rows])
            of_all = source.find_in(seen, photos)  # the maps are those of all photos
            return [of_all[i] for i in rows]

        return self._joined([photo.size for photo in photos], found)

    def select(self, detections: Regions) -> Regions:
        """See :meth:`RegionSource.select`, of all sources."""
        return self._joined([detections.size], lambda source, rows: [source.select(detections)])[0]

    def share(self, detector: NetworkDetector) -> None:
        """See :meth:`RegionSource.share`: the first source takes the boxes of the detector."""
        self.sources[0].share(detector)
        self._take_detector()

    def limited(self, max_regions: int) -> Self:
        """See :meth:`RegionSource.limited`."""
        if self.detector is None:
            return self
        fewer = copy.copy(self)
        fewer.max_regions = min(self.max_regions, checks.whole("max_regions", max_regions, 0))
        return fewer

    def program(self, max_detections: int | None) -> JoinedRegions:
        """See :meth:`RegionSource.program`. Detectors of several sources have to know the same classes."""
        classes = {tuple(source.detector.classes) for source in self.sources if source.detector is not None}
        if len(classes) > 1:
            raise ValueError(
                "of: expected detectors of the same classes in a model that is exported, found "
                f"{' and '.join(str(list(names)) for names in sorted(classes))}"
            )
        most = self.max_regions if max_detections is None else min(max_detections, self.max_regions)
        return JoinedRegions([source.program(None) for source in self.sources], self.nms_iou, most, self.fill_to)

    def network_program(self, max_detections: int | None) -> JoinedRegions:
        """See :meth:`RegionSource.network_program`."""
        return self.program(max_detections)

    def decode_side(self) -> int:
        """See :meth:`RegionSource.decode_side`."""
        return max(source.decode_side() for source in self.sources)

    def _take_detector(self) -> None:
        """Declare the first detector as that of this source, without saving it twice."""
        detectors = [source.detector for source in self.sources if source.detector is not None]
        object.__setattr__(self, "detector", detectors[0] if detectors else None)

    def _joined(
        self,
        sizes: Sequence[tuple[int, int]],
        found: Callable[[RegionSource, list[int]], list[Regions]],
        sources: Sequence[RegionSource] | None = None,
    ) -> list[Regions]:
        """The regions of photos of these sizes, where ``found`` gives those of a source for some of the photos."""
        parts: list[list[Regions]] = [[] for _ in sizes]
        joined = [Regions.whole(size) for size in sizes]
        for source in self.sources if sources is None else sources:
            rows = [i for i, regions in enumerate(joined) if self.fill_to is None or len(regions) - 1 < self.fill_to]
            for i, regions in zip(rows, found(source, rows) if rows else [], strict=True):
                parts[i].append(regions)
                joined[i] = self._without_duplicates(parts[i])
        return joined

    def _without_duplicates(self, parts: Sequence[Regions]) -> Regions:
        """The whole image, then the boxes of the parts, each of which starts with the whole image."""
        together = Regions.cat([part if number == 0 else part[1:] for number, part in enumerate(_same_classes(parts))])
        boxes = as_tensor(together.boxes)[1:]
        kept = nms(boxes, torch.arange(len(boxes), 0, -1), self.nms_iou)[: self.max_regions]
        return together[np.concatenate([[0], 1 + kept.numpy()])]


def _same_classes(parts: Sequence[Regions]) -> list[Regions]:
    """The parts with their class names joined, in order, and labels that count them."""
    names = list(dict.fromkeys(name for part in parts for name in part.classes))
    if all(part.classes in ((), tuple(names)) for part in parts):
        return list(parts)
    renumbered = []
    for part in parts:
        number = {old: names.index(name) for old, name in enumerate(part.classes)}
        labels = np.array([number.get(label, NO_LABEL) for label in part.labels.tolist()], np.int64)
        renumbered.append(Regions(part.boxes, part.size, part.scores, labels, names, part.extras))
    return renumbered
