"""One pass as functions of tensors, for exporters."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb.describers._pooled_program import detected, with_whole
from objemb.describers._window_program import CanvasMaps, WindowProgram
from objemb.describers.base import DescriptionProgram, RowOfRegions
from objemb.describers.capabilities import BoxEmbedder
from objemb.detectors.capabilities import NetworkInput, PaddedBoxes
from objemb.ops.grid import lengths
from objemb.ops.tensors import l2, padded_rows, rows_where


class OnePassProgram(DescriptionProgram):
    """Boxes of a photo, selected as for an index, and their vectors.

    Args:
        describer: The describer, which shares its layers.
        levels: Names of the detector's levels that the head reads.
        max_detections: See :meth:`objemb.describers.base.Describer.program`.
        row: Likewise.
        object_side: See :class:`~objemb.describers.one_pass.OnePass`; None for no windows.
        from_input: Whether windows are cut from the network's input.
        multiple: Sides of windows are multiples of this, in pixels.
        octaves: Boxes larger or smaller than ``object_side`` by more than this are described from a window.
    """

    def __init__(
        self,
        describer: BoxEmbedder,
        levels: tuple[str, ...],
        max_detections: int,
        row: RowOfRegions | None,
        object_side: float | None,
        from_input: bool,
        multiple: int,
        octaves: float,
    ) -> None:
        super().__init__()
        self.detector, self.head, self.whitening = describer.detector, describer.head, describer.whitening
        self.row = row
        self.regions = describer.regions.network_program(None if row is not None else max_detections)
        self.detection = self.regions.detection
        self.levels = levels
        self.max_detections, self.min_score = self.regions.max_detections, self.regions.min_score
        self.covers = self.regions.covers
        self.object_side, self.from_input, self.octaves = object_side, from_input, octaves
        if object_side is not None:
            self.windows = WindowProgram(object_side, None if from_input else self.detector.mean, multiple)
            self.canvas_maps = CanvasMaps(self._window_maps, self.detector, self.windows.canvas, multiple)

    def photos(self, photos: Tensor) -> dict[str, Tensor]:
        """See :meth:`DescriptionProgram.photos`."""
        pixels, size = self.detection.prepared(photos)
        features = self.detector.features(NetworkInput(pixels, []))
        found = self.regions.in_pass(photos, pixels, size, features)
        described = []
        for i, (photo, boxes) in enumerate(zip(photos.unbind(), found, strict=True)):
            maps = [features[name][i : i + 1] for name in self.levels]
            described.append({**detected(boxes), **self._described(photos, photo, pixels[i], maps, size, boxes)})
        return {name: torch.stack([one[name] for one in described]) for name in described[0]}

    def boxes(self, photo: Tensor, boxes: Tensor) -> Tensor:
        """See :meth:`DescriptionProgram.boxes`."""
        pixels, size = self.detection.prepared(photo[None])
        maps = self.detector.maps(NetworkInput(pixels, []), self.levels)
        return self._vectors(photo, pixels[0], [maps[name] for name in self.levels], size, boxes)

    def _described(
        self, photos: Tensor, photo: Tensor, pixels: Tensor, maps: list[Tensor], size: Tensor, found: PaddedBoxes
    ) -> dict[str, Tensor]:
        """The vectors of one photo."""
        boxes, scores = with_whole(photos, found)
        vectors = self._vectors(photo, pixels, maps, size, boxes)
        if self.row is not None:
            return {"whole": self.row(vectors, scores)}
        return {"vectors": padded_rows(vectors[1:], self.max_detections), "whole": vectors[0]}

    def _vectors(self, photo: Tensor, pixels: Tensor, maps: list[Tensor], size: Tensor, boxes: Tensor) -> Tensor:
        """Vectors ``(N, D)`` of boxes ``(N, 4)`` in pixels of the photo, N at least 1.

        Args:
            photo: uint8 ``(H, W, 3)``.
            pixels: ``(3, h, w)``: the photo as input of the network.
            maps: Of the levels that the head reads.
            size: float32 ``(2,)``, height and width of the photo within the input.
            boxes: The boxes.
        """
        extent = lengths((photo.shape[0], photo.shape[1]), photo)
        in_network = boxes * (size / extent).flip(0).repeat(2)
        samples = self.head.sampled_rois(maps, torch.cat([boxes.new_zeros(boxes.shape[0], 1), in_network], dim=1))
        if self.object_side is not None:
            sides = (in_network[:, 2:] - in_network[:, :2]).amax(dim=1)
            apart = (sides / self.object_side).log2().abs() > self.octaves
            seen = (pixels.permute(1, 2, 0), size, in_network) if self.from_input else (photo, extent, boxes)
            samples = self._with_windows(*seen, samples, apart)
        vectors = l2(self.head.embed(samples).float())
        return vectors if self.whitening is None else self.whitening(vectors)

    def _with_windows(self, picture: Tensor, extent: Tensor, boxes: Tensor, samples: Tensor, apart: Tensor) -> Tensor:
        """The samples of boxes, with those of boxes that are ``apart``, bool ``(N,)``, replaced by those of windows."""
        # at least one window, of the first box, because runtimes do not support empty batches
        first = torch.arange(apart.shape[0], device=apart.device) == 0
        cut = rows_where(apart | (first & ~apart.any(dim=0)))
        torch._check(cut.shape[0] >= 1)
        pixels, sizes, moved = self.windows(picture, extent, boxes[cut])
        numbers = torch.arange(moved.shape[0], device=moved.device)[:, None].to(moved.dtype)
        of_windows = self.head.sampled_rois(self.canvas_maps(pixels, sizes), torch.cat([numbers, moved], dim=1))
        return torch.where(apart[:, None, None, None], samples.index_put((cut,), of_windows), samples)

    def _window_maps(self, pixels: Tensor) -> list[Tensor]:
        normalised = pixels if self.from_input else self.detection.normalised(pixels)
        maps = self.detector.maps(NetworkInput(normalised, []), self.levels)
        return [maps[name] for name in self.levels]
