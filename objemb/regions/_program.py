"""Region sources as functions of tensors, for exporters."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from objemb.detectors.base import Detector
from objemb.detectors.capabilities import NetworkDetector, NetworkInput, PaddedBoxes
from objemb.layers.first_kept import FirstKept
from objemb.ops.boxes import clip
from objemb.ops.grid import TracedGrid, lengths
from objemb.ops.tensors import padded_rows, rows_where
from objemb.regions._rmac_layout import RmacLayout
from objemb.regions.base import PassProgram, RegionProgram
from objemb.structures import NO_LABEL


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
        laid = PaddedBoxes(boxes, there.float(), _no_labels(there), count)
        return [laid] * photos.shape[0]


class PatchRegions(RegionProgram):
    """The patches of :class:`~objemb.regions.patchify.Patchify`.

    Args:
        patches: int64 ``(K, 5)``: column and row of each corner of a patch, and the number of columns and rows of its
            grid.
    """

    patches: Tensor

    def __init__(self, patches: Tensor) -> None:
        super().__init__()
        self.register_buffer("patches", patches, persistent=False)
        self.max_detections = len(patches)

    def forward(self, photos: Tensor, grid: TracedGrid | None) -> list[PaddedBoxes]:
        """See :meth:`RegionProgram.forward`."""
        extent = lengths((photos.shape[1], photos.shape[2]), photos).flip(0).repeat(2)
        boxes = (self.patches[:, :4] * extent).float() / self.patches[:, 4:].float()
        there = torch.ones_like(self.patches[:, 0]).bool()
        return [PaddedBoxes(boxes, there.float(), _no_labels(there), there.sum())] * photos.shape[0]


def _no_labels(there: Tensor) -> Tensor:
    """int64 ``(K,)``: the labels of regions without a class where bool ``there`` is True, zeros elsewhere."""
    return there.long() * NO_LABEL


class _Kept(nn.Module):
    """Selects boxes by non-maximum suppression.

    Args:
        max_iou: A box whose IoU with a better one exceeds this is dropped.
        most: At most so many are kept.
    """

    def __init__(self, max_iou: float, most: int) -> None:
        super().__init__()
        self.first_kept, self.most = FirstKept(max_iou, most), most

    def forward(self, boxes: Tensor, order: Tensor, sure: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``(K,)`` of the boxes that stay, and bool ``(K,)``: which of them are boxes.

        Args:
            boxes: float32 ``(N, 4)``.
            order: float32 ``(N,)``: the greater, the better.
            sure: bool ``(N,)``: which may stay.
        """
        kept = self.first_kept(boxes, torch.where(sure, order, -1.0))
        kept = kept[rows_where(sure[kept])]
        count = torch.ones_like(kept).sum().clamp(max=self.most)
        there = torch.arange(self.most, device=boxes.device) < count
        return padded_rows(kept, self.most), there


class DetectorRegions(PassProgram):
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
        self.kept, self.max_detections = _Kept(nms_iou, most), most

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
        rows, there = self.kept(boxes, found.scores, (places < found.count) & (found.scores >= self.min_score))
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
        rows, there = self.kept(boxes, order, valid)
        return PaddedBoxes(boxes[rows] * there[:, None], there.float(), _no_labels(there), there.sum())


class JoinedRegions(PassProgram):
    """The regions of :class:`~objemb.regions.union.Union`.

    Args:
        of: The programs of its sources, in order.
        nms_iou: A box whose IoU with a box before it exceeds this is dropped.
        most: At most so many boxes per photo.
        fill_to: A source is used only for photos in which those before it found fewer boxes; None to use all.

    Raises:
        ValueError: Proposals of a detector, which have no labels, beside sources without a detector: which of their
            boxes a query is searched for could not be told.
    """

    def __init__(self, of: Sequence[RegionProgram], nms_iou: float, most: int, fill_to: int | None) -> None:
        super().__init__()
        self.of = nn.ModuleList(of)
        self.fill_to, self.max_detections = fill_to, most
        self.kept = nn.ModuleList(_Kept(nms_iou, most) for _ in (of if fill_to is not None else of[:1]))
        self.detects = any(program.detects for program in of)
        self.covers = self.detects and not all(program.detects for program in of)
        if self.covers and any(isinstance(program, ProposedRegions) for program in of):
            raise ValueError(
                "of: expected detections beside sources without a detector in a model that is exported, found proposals"
            )
        self.min_score = min((program.min_score for program in of if program.detects), default=0.0)
        passing = [program for program in of if isinstance(program, PassProgram)]
        if passing:
            self.detector, self.detection = passing[0].detector, passing[0].detection

    def forward(self, photos: Tensor, grid: TracedGrid | None) -> list[PaddedBoxes]:
        """See :meth:`RegionProgram.forward`."""
        return self._joined([program(photos, grid) for program in self.of])

    def in_pass(self, photos: Tensor, pixels: Tensor, size: Tensor, maps: Mapping[str, Tensor]) -> list[PaddedBoxes]:
        """See :meth:`RegionProgram.in_pass`. Sources without the detector of the pass compute theirs on their own."""
        return self._joined(
            [
                program.in_pass(photos, pixels, size, maps)
                if isinstance(program, PassProgram) and program.detector is self.detector
                else cast(RegionProgram, program)(photos, None)
                for program in self.of
            ]
        )

    def _joined(self, of_sources: Sequence[Sequence[PaddedBoxes]]) -> list[PaddedBoxes]:
        """The boxes of photos, from those of each source for each photo."""
        return [self._of_photo(parts) for parts in zip(*of_sources, strict=True)]

    def _of_photo(self, parts: Sequence[PaddedBoxes]) -> PaddedBoxes:
        if self.fill_to is None:
            return self._without_duplicates(parts, self.kept[0])
        joined = self._without_duplicates(parts[:1], self.kept[0])
        used = list(parts[:1])
        for part, kept in zip(parts[1:], self.kept[1:], strict=True):
            count = torch.where(joined.count < self.fill_to, part.count, 0)
            used.append(replace(part, count=count))
            joined = self._without_duplicates(used, kept)
        return joined

    def _without_duplicates(self, parts: Sequence[PaddedBoxes], kept: nn.Module) -> PaddedBoxes:
        boxes, scores, labels, sure = (
            torch.cat(tensors)
            for tensors in zip(
                *(
                    (part.boxes, part.scores, part.labels, torch.arange(len(part.scores)) < part.count)
                    for part in parts
                ),
                strict=True,
            )
        )
        order = torch.arange(boxes.shape[0], 0, -1, device=boxes.device).float()
        rows, there = kept(boxes, order, sure)
        return PaddedBoxes(boxes[rows] * there[:, None], scores[rows] * there, labels[rows] * there, there.sum())
