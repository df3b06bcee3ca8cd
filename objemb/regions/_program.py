"""Region sources as functions of tensors, for exporters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from objemb.detectors.base import Detector
from objemb.detectors.capabilities import NetworkDetector, NetworkInput, PaddedBoxes
from objemb.layers.first_kept import FirstKept
from objemb.ops.boxes import clip
from objemb.ops.grid import TracedGrid, lengths
from objemb.ops.tensors import padded_rows, rows_where
from objemb.regions._rmac_layout import RmacLayout
from objemb.regions.base import RegionProgram


class NoRegions(RegionProgram):
    """No region beside the whole image."""

    max_detections = 0

    def forward(self, photos: Tensor, grid: TracedGrid | None) -> list[PaddedBoxes]:
        """See :meth:`RegionProgram.forward`."""
        none = photos.new_zeros(0, dtype=torch.int64)
        empty = PaddedBoxes(none.float()[:, None].expand(-1, 4), none.float(), none, none.sum())
        return [empty] * photos.shape[0]


class GridRegions(RegionProgram):
    """The squares of :class:`~objemb.regions.rmac_grid.RmacGrid`.

    Args:
        layout: Lays them.
        of_pixels: Whether on the pixels of the input instead of the cells of the map.
    """

    def __init__(self, layout: RmacLayout, of_pixels: bool) -> None:
        super().__init__()
        self.layout, self.of_pixels, self.max_detections = layout, of_pixels, layout.most

    def forward(self, photos: Tensor, grid: TracedGrid | None) -> list[PaddedBoxes]:
        """See :meth:`RegionProgram.forward`."""
        size = lengths((photos.shape[1], photos.shape[2]), photos)
        grid = TracedGrid(size, size, size, 1, 0.0) if grid is None else grid
        if self.of_pixels:
            cells, count = self.layout.on_pixels(grid.shape, grid.raster, grid.stride)
        else:
            cells, count = self.layout(grid.raster)
        there = torch.arange(self.max_detections, device=photos.device) < count
        boxes = clip(grid.to_pixels(cells.float()), size) * there[:, None]
        laid = PaddedBoxes(boxes, there.float(), torch.zeros_like(cells[:, 0]), count)
        return [laid] * photos.shape[0]


class DetectorRegions(RegionProgram):
    """Boxes from the maps of a detector.

    Args:
        detector: The detector.
        nms_iou: A box whose IoU with a better one exceeds this is dropped.
        most: At most so many boxes per photo.

    Raises:
        TypeError: The detector is no network, or one that cannot be exported.
    """

    detects = True

    def __init__(self, detector: Detector | None, nms_iou: float, most: int) -> None:
        super().__init__()
        if not isinstance(detector, NetworkDetector):
            found = "none" if detector is None else detector.registry_name
            raise TypeError(f"detector: expected a network such as faster_rcnn or torchvision_rcnn, found {found}")
        self.detector, self.detection = detector, detector.program()
        self.first_kept, self.max_detections = FirstKept(nms_iou, most), most

    def forward(self, photos: Tensor, grid: TracedGrid | None) -> list[PaddedBoxes]:
        """See :meth:`RegionProgram.forward`."""
        pixels, size = self.detection.prepared(photos)
        return self.in_pass(photos, pixels, size, self.detector.features(NetworkInput(pixels, [])))

    def in_pass(self, photos: Tensor, pixels: Tensor, size: Tensor, maps: Mapping[str, Tensor]) -> list[PaddedBoxes]:
        """See :meth:`RegionProgram.in_pass`."""
        extent = lengths((photos.shape[1], photos.shape[2]), photos)
        padded = (pixels.shape[2], pixels.shape[3])
        return [
            self._of_photo({name: map_[i : i + 1] for name, map_ in maps.items()}, padded, size, extent)
            for i in range(photos.shape[0])
        ]

    @abstractmethod
    def _of_photo(
        self, maps: Mapping[str, Tensor], padded: tuple[int, int], size: Tensor, extent: Tensor
    ) -> PaddedBoxes:
        """The boxes of one photo of ``extent``, int64 ``(2,)``, height and width, in its pixels."""

    def _kept(self, boxes: Tensor, order: Tensor, sure: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``(K,)`` of the boxes that stay, and bool ``(K,)``: which of them are boxes.

        Args:
            boxes: float32 ``(N, 4)``.
            order: float32 ``(N,)``: the greater, the better.
            sure: bool ``(N,)``: which may stay.
        """
        kept = self.first_kept(boxes, torch.where(sure, order, -1.0))
        kept = kept[rows_where(sure[kept])]
        count = torch.ones_like(kept).sum().clamp(max=self.max_detections)
        there = torch.arange(self.max_detections, device=boxes.device) < count
        return padded_rows(kept, self.max_detections), there


class DetectedRegions(DetectorRegions):
    """What :class:`~objemb.regions.detections.Detections` selects.

    Args:
        detector: As for :class:`DetectorRegions`.
        nms_iou: Likewise.
        most: Likewise.
        min_score: Boxes with lower scores are dropped.
    """

    def __init__(self, detector: Detector | None, nms_iou: float, most: int, min_score: float) -> None:
        super().__init__(detector, nms_iou, most)
        self.min_score = min_score

    def _of_photo(
        self, maps: Mapping[str, Tensor], padded: tuple[int, int], size: Tensor, extent: Tensor
    ) -> PaddedBoxes:
        """See :meth:`DetectorRegions._of_photo`."""
        found = self.detection(maps, padded, size, self.min_score)
        boxes = clip(found.boxes * (extent / size).flip(0).repeat(2), extent)
        places = torch.arange(found.scores.shape[0], device=boxes.device)
        rows, there = self._kept(boxes, found.scores, (places < found.count) & (found.scores >= self.min_score))
        return PaddedBoxes(
            boxes[rows] * there[:, None], found.scores[rows] * there, found.labels[rows] * there, there.sum()
        )


class ProposedRegions(DetectorRegions):
    """What :class:`~objemb.regions.rpn_proposals.RpnProposals` selects."""

    def _of_photo(
        self, maps: Mapping[str, Tensor], padded: tuple[int, int], size: Tensor, extent: Tensor
    ) -> PaddedBoxes:
        """See :meth:`DetectorRegions._of_photo`."""
        proposed, valid = self.detection.proposals(maps, padded, size)
        boxes = clip(proposed * (extent / size).flip(0).repeat(2), extent)
        order = torch.arange(boxes.shape[0], 0, -1, device=boxes.device).float()
        rows, there = self._kept(boxes, order, valid)
        return PaddedBoxes(boxes[rows] * there[:, None], there.float(), rows * 0, there.sum())
