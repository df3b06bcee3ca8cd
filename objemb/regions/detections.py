"""Detected objects: hard attention."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

from objemb import checks
from objemb.detectors.base import Detector
from objemb.detectors.capabilities import DetectorPass, NetworkDetector
from objemb.ops.boxes import nms
from objemb.ops.grid import Grid
from objemb.ops.tensors import as_tensor
from objemb.regions._program import DetectedRegions, NoRegions
from objemb.regions.base import RegionProgram, RegionSource
from objemb.registry import plugin
from objemb.structures import Photo, Regions


@plugin
class Detections(RegionSource):
    """The whole image, then the boxes of a detector, best first.

    Args:
        detector: Detects objects; None for the whole image only.
        min_score: Boxes with lower scores are dropped; None keeps all.
        nms_iou: A box whose IoU with a better one of *any* class exceeds this is dropped; 1 keeps all.
        max_regions: Maximum number of boxes per photo, in addition to the whole image; 0 for the whole image only.
    """

    def __init__(
        self,
        *,
        detector: Detector | None = None,
        min_score: float | None = 0.5,
        nms_iou: float = 0.5,
        max_regions: int = 20,
    ) -> None:
        super().__init__()
        self.detector = detector
        self.min_score = None if min_score is None else checks.between("min_score", min_score, 0, 1)
        self.nms_iou = checks.between("nms_iou", nms_iou, 0, 1)
        self.max_regions = checks.whole("max_regions", max_regions, 0)

    def find(self, photos: Sequence[Photo], grids: Sequence[Grid] | None = None) -> list[Regions]:
        """See :meth:`RegionSource.find`. Extras of the detector are kept; see :meth:`Regions.with_whole`."""
        if self.detector is None:
            return [Regions.whole(photo.size) for photo in photos]
        return [self.select(detections) for detections in self.detector.detect(photos)]

    def find_in(self, seen: DetectorPass, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`RegionSource.find_in`."""
        if not isinstance(self.detector, NetworkDetector):
            return super().find_in(seen, photos)
        return [self.select(detections) for detections in self.detector.regions(seen.batch, dict(seen.maps), photos)]

    def share(self, detector: NetworkDetector) -> None:
        """See :meth:`RegionSource.share`."""
        if self.detector is not None:
            raise ValueError(
                "regions.detector: expected null, since the detector of the features is shared, found "
                f"{self.detector.registry_name}"
            )
        object.__setattr__(self, "detector", detector)  # not registered as a submodule, so that it is saved once

    def limited(self, max_regions: int) -> Self:
        """See :meth:`RegionSource.limited`."""
        fewer = copy.copy(self)
        fewer.max_regions = checks.whole("max_regions", max_regions, 0)
        return fewer

    def program(self, max_detections: int | None) -> RegionProgram:
        """See :meth:`RegionSource.program`."""
        return NoRegions() if self.detector is None else self.network_program(max_detections)

    def network_program(self, max_detections: int | None) -> DetectedRegions:
        """See :meth:`RegionSource.network_program`."""
        most = self.max_regions if max_detections is None else min(max_detections, self.max_regions)
        return DetectedRegions(self.detector, self.nms_iou, most, self.min_score or 0.0)

    def select(self, detections: Regions) -> Regions:
        """See :meth:`RegionSource.select`."""
        sure = detections if self.min_score is None else detections[detections.scores >= self.min_score]
        kept = sure[nms(as_tensor(sure.boxes), as_tensor(sure.scores), self.nms_iou)[: self.max_regions]]
        return kept.with_whole()
