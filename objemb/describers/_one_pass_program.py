"""One pass as functions of tensors, for exporters."""

from __future__ import annotations

import torch
import torchvision.ops
from torch import Tensor

from objemb.describers._window_program import CanvasMaps, WindowProgram
from objemb.describers.base import DescriptionProgram
from objemb.describers.capabilities import BoxEmbedder
from objemb.detectors.capabilities import Found, NetworkInput
from objemb.ops.tensors import l2, padded_rows, rows_where


class OnePassProgram(DescriptionProgram):
    """Boxes of a photo, selected as for an index, and their vectors.

    Args:
        describer: The describer, which shares its layers.
        levels: Names of the detector's levels that the head reads.
        max_detections: Maximum number of boxes per photo; the describer may have a smaller maximum.
        object_side: See :class:`~objemb.describers.one_pass.OnePass`; None for no windows.
        multiple: Sides of windows are multiples of this, in pixels.
        octaves: Boxes larger or smaller than ``object_side`` by more than this are described from a window.
    """

    def __init__(
        self,
        describer: BoxEmbedder,
        levels: tuple[str, ...],
        max_detections: int,
        object_side: float | None,
        multiple: int,
        octaves: float,
    ) -> None:
        super().__init__()
        self.detector, self.head, self.whitening = describer.detector, describer.head, describer.whitening
        self.detection = self.detector.program()
        self.levels = levels
        self.selection = describer.regions
        self.max_detections = min(max_detections, self.selection.max_regions)
        self.min_score = self.selection.min_score or 0.0
        self.object_side, self.octaves = object_side, octaves
        if object_side is not None:
            self.windows = WindowProgram(object_side, self.detector.mean, multiple)
            self.canvas_maps = CanvasMaps(self._window_maps, self.detector, self.windows.canvas, multiple)

    def photos(self, photos: Tensor) -> dict[str, Tensor]:
        """See :meth:`DescriptionProgram.photos`."""
        pixels, size = self.detection.prepared(photos)
        features = self.detector.features(NetworkInput(pixels, []))
        padded = (pixels.shape[2], pixels.shape[3])
        described = [
            self._described(photo, {name: map_[i : i + 1] for name, map_ in features.items()}, padded, size)
            for i, photo in enumerate(photos.unbind())
        ]
        return {name: torch.stack([one[name] for one in described]) for name in described[0]}

    def boxes(self, photo: Tensor, boxes: Tensor) -> Tensor:
        """See :meth:`DescriptionProgram.boxes`."""
        pixels, size = self.detection.prepared(photo[None])
        maps = self.detector.maps(NetworkInput(pixels, []), self.levels)
        return self._vectors(photo, [maps[name] for name in self.levels], size, boxes)

    def _described(
        self, photo: Tensor, features: dict[str, Tensor], padded: tuple[int, int], size: Tensor
    ) -> dict[str, Tensor]:
        """The outputs for one photo."""
        found = self.detection(features, padded, size, self.min_score)
        extent = _extent(photo)
        boxes = _within(found.boxes * (extent / size).flip(0).repeat(2), extent)
        rows, count = self._selected(found, boxes)
        there = torch.arange(self.max_detections, device=rows.device) < count
        boxes = boxes[rows] * there[:, None]
        whole = torch.cat([extent.new_zeros(2), extent.flip(0)])[None]
        described = torch.cat([whole, boxes[rows_where(there)]])
        maps = [features[name] for name in self.levels]
        vectors = self._vectors(photo, maps, size, described)
        return {
            "boxes": boxes,
            "labels": found.labels[rows] * there,
            "scores": found.scores[rows] * there,
            "count": count,
            "vectors": padded_rows(vectors[1:], self.max_detections),
            "whole": vectors[0],
        }

    def _selected(self, found: Found, boxes: Tensor) -> tuple[Tensor, Tensor]:
        """Rows ``(K,)`` of the boxes that :meth:`~objemb.regions.detections.Detections.select` keeps, and their
        number."""
        sure = (torch.arange(found.scores.shape[0], device=boxes.device) < found.count) & (
            found.scores >= self.min_score
        )
        kept = torchvision.ops.nms(boxes, torch.where(sure, found.scores, -1.0), self.selection.nms_iou)
        kept = kept[rows_where(sure[kept])]
        count = torch.ones_like(kept).sum().clamp(max=self.max_detections)
        return padded_rows(kept, self.max_detections), count

    def _vectors(self, photo: Tensor, maps: list[Tensor], size: Tensor, boxes: Tensor) -> Tensor:
        """Vectors ``(N, D)`` of boxes ``(N, 4)`` in pixels of the photo, N at least 1."""
        in_network = boxes * (size / _extent(photo)).flip(0).repeat(2)
        samples = self.head.sampled_rois(maps, torch.cat([boxes.new_zeros(boxes.shape[0], 1), in_network], dim=1))
        if self.object_side is not None:
            sides = (in_network[:, 2:] - in_network[:, :2]).amax(dim=1)
            apart = rows_where((sides / self.object_side).log2().abs() > self.octaves)
            samples = self._with_windows(photo, boxes, samples, apart)
        vectors = l2(self.head.embed(samples).float())
        return vectors if self.whitening is None else self.whitening(vectors)

    def _with_windows(self, photo: Tensor, boxes: Tensor, samples: Tensor, apart: Tensor) -> Tensor:
        """The samples of boxes, with those of boxes that are ``apart`` replaced by samples from a window each."""
        # one additional window, of the first box, because runtimes do not support empty batches; its samples are cut
        # off
        extended = torch.cat([samples, samples[:1]])
        surplus = torch.ones_like(samples[:, 0, 0, 0]).sum().long()[None]
        pixels, sizes, moved = self.windows(photo, torch.cat([boxes[apart], boxes[:1]]))
        numbers = torch.arange(moved.shape[0], device=moved.device)[:, None].to(moved.dtype)
        of_windows = self.head.sampled_rois(self.canvas_maps(pixels, sizes), torch.cat([numbers, moved], dim=1))
        return extended.index_put((torch.cat([apart, surplus]),), of_windows)[:-1]

    def _window_maps(self, pixels: Tensor) -> list[Tensor]:
        maps = self.detector.maps(NetworkInput(self.detection.normalised(pixels), []), self.levels)
        return [maps[name] for name in self.levels]


def _extent(photo: Tensor) -> Tensor:
    """float32 ``(2,)``: height and width of a photo ``(H, W, 3)``."""
    one = torch.ones((), dtype=torch.float32, device=photo.device)
    return torch.stack([one * photo.shape[0], one * photo.shape[1]])


def _within(boxes: Tensor, extent: Tensor) -> Tensor:
    return torch.minimum(boxes.clamp_min(0), extent.flip(0).repeat(2))
