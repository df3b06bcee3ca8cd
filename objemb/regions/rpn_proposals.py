"""Proposals of a detector: boxes that may hold an object of any class."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Self

import torch

from objemb import checks
from objemb.detectors.base import Detector
from objemb.detectors.capabilities import DetectorPass, NetworkDetector
from objemb.ops.boxes import nms
from objemb.ops.grid import Grid
from objemb.ops.tensors import as_tensor
from objemb.regions._program import ProposedRegions
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import Photo, Regions


@plugin
class RpnProposals(RegionSource):
    """The whole image, then the boxes of a region proposal network (Ren et al. 2015), best first.

    They replace the rigid grid of R-MAC in Gordo et al., "Deep image retrieval", ECCV 2016, which uses up to 256 of
    them. They cost one pass of the detector's backbone and its proposal network; its box head does not run.

    Args:
        detector: A network, configured with its own weights and number of candidates. None for that of the describer,
            whose features are a map of it.
        nms_iou: A proposal whose IoU with a better one exceeds this is dropped, even if they come from different levels
            of the pyramid; 1 keeps all.
        max_regions: Maximum number of proposals per photo, in addition to the whole image; 0 for the whole image only.

    Raises:
        TypeError: The detector is not a network, such as stored boxes.
    """

    detector: NetworkDetector | None

    def __init__(self, *, detector: Detector | None = None, nms_iou: float = 0.7, max_regions: int = 256) -> None:
        super().__init__()
        if detector is not None and not isinstance(detector, NetworkDetector):
            raise TypeError(f"detector: expected a network such as torchvision_rcnn, found {type(detector).__name__}")
        self.detector = detector
        self.nms_iou = checks.between("nms_iou", nms_iou, 0, 1)
        self.max_regions = checks.whole("max_regions", max_regions, 0)

    @property
    def lacks_detector(self) -> bool:
        """See :attr:`RegionSource.lacks_detector`."""
        return self.detector is None

    def find(self, photos: Sequence[Photo], grids: Sequence[Grid] | None = None) -> list[Regions]:
        """See :meth:`RegionSource.find`. Proposals have the score 1; they are ordered, best first."""
        return [self.select(proposed) for proposed in self._network().propose(photos)]

    def find_in(self, seen: DetectorPass, photos: Sequence[Photo]) -> list[Regions]:
        """See :meth:`RegionSource.find_in`."""
        return [self.select(proposed) for proposed in self._network().proposals(seen.batch, dict(seen.maps), photos)]

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

    def program(self, max_detections: int | None) -> ProposedRegions:
        """See :meth:`RegionSource.program`."""
        most = self.max_regions if max_detections is None else min(max_detections, self.max_regions)
        return ProposedRegions(self._network(), self.nms_iou, most)

    def select(self, detections: Regions) -> Regions:
        """See :meth:`RegionSource.select`. Proposals have to be ordered, best first; their scores are not used."""
        order = torch.arange(len(detections), 0, -1)
        kept = detections[nms(as_tensor(detections.boxes), order, self.nms_iou)[: self.max_regions]]
        return Regions.cat([Regions.whole(detections.size), kept])

    def _network(self) -> NetworkDetector:
        """The detector. Raises ``ValueError`` if there is none."""
        if self.detector is None:
            raise ValueError(
                "regions.detector: expected a network such as torchvision_rcnn, or a describer that shares its own "
                "(pooled_regions on detector_trunk), found none"
            )
        return self.detector
