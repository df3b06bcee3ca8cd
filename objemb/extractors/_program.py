"""Extractors as functions of tensors, for exporters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor
from torchvision.ops import roi_align

from objemb.backbones.base import Backbone
from objemb.extractors._maps import Sampling
from objemb.extractors.base import ExtractionProgram, TracedFeatures
from objemb.ops.boxes import touched_cells, windows
from objemb.ops.byte_resize import resized_parts
from objemb.ops.grid import TracedGrid, lengths
from objemb.pooling.base import Pooling

#: Parts of a pixel in which sizes of inputs are computed: as many as 32 bits hold, in which OpenVINO computes whole
#: numbers, for photos of up to 32,767 pixels a side.
PARTS = 1 << 14


class MapProgram(ExtractionProgram):
    """:class:`~objemb.extractors.map.Map` at one scale.

    Sides of inputs are whole numbers by exact arithmetic, where :func:`objemb.ops.images.input_size` computes in
    float64: they differ by a pixel where float64 falls short of a half that is to be rounded up.

    Args:
        backbone: The network.
        size: Pixels of the photo's side when it enters the network, at scale 1.
        side: ``"longest"`` or ``"shortest"``.
        enlarge: Whether photos whose side has fewer pixels are enlarged.
        sampling: How values under a box are read.
        scale: Factor on the size.
    """

    keeps_scale = True

    def __init__(
        self, backbone: Backbone, size: float, side: str, enlarge: bool, sampling: Sampling, scale: float
    ) -> None:
        super().__init__()
        self.backbone, self.sampling = backbone, sampling
        self.longest, self.enlarge = side == "longest", enlarge
        self.target, self.scale = round(size * scale * PARTS), round(scale * PARTS)
        self._whole: tuple[int, int] | None = None

    @contextmanager
    def at_scale_of(self, whole: tuple[int, int]) -> Iterator[None]:
        """See :meth:`ExtractionProgram.at_scale_of`."""
        self._whole = whole
        try:
            yield
        finally:
            self._whole = None

    def grid(self, photos: Tensor) -> TracedGrid:
        """See :meth:`ExtractionProgram.grid`."""
        size = (photos.shape[1], photos.shape[2])
        shape = self._shape(size)
        backbone = self.backbone
        raster, photo, network = (lengths(of, photos) for of in (backbone.map_size(shape), size, shape))
        return TracedGrid(raster, photo, network, backbone.stride, backbone.offset)

    def forward(self, photos: Tensor) -> list[TracedFeatures]:
        """See :meth:`ExtractionProgram.forward`."""
        return self.of_maps(photos, self.backbone(self.pixels(photos)))

    def pixels(self, photos: Tensor) -> Tensor:
        """See :meth:`ExtractionProgram.pixels`."""
        height, width = photos.shape[1:3]
        shape = self._shape((height, width))
        grid = self.grid(photos)
        size, places = grid.size[None].double(), grid.shape[None].double()
        none = torch.zeros_like(size)
        resized = [resized_parts(photo, none, size, places, none, shape) for photo in photos.unbind()]
        return torch.cat(resized) / 255

    def of_maps(self, photos: Tensor, maps: Tensor) -> list[TracedFeatures]:
        """See :meth:`ExtractionProgram.of_maps`."""
        grid = self.grid(photos)
        return [_TracedMap(map_[None], grid, self.sampling) for map_ in maps.unbind()]

    def _shape(self, size: tuple[int, int]) -> tuple[int, int]:
        """``(height, width)`` of the input of the network for a photo of a size, or for a part of that size; see
        :class:`objemb.extractors.map.Map`."""
        length = cast(int, (torch.sym_max if self.longest else torch.sym_min)(*(self._whole or size)))
        target = self.target if self.enlarge else cast(int, torch.sym_min(self.target, length * self.scale))
        multiple = self.backbone.multiple
        least = -(-max(self.backbone.smallest, 1) // multiple)
        height, width = (torch.sym_max(_nearest(side, target // multiple, length), least) * multiple for side in size)
        return cast(tuple[int, int], (height, width))


def _nearest(side: int, target: int, length: int) -> int:
    """``side * target / (length * PARTS)``, rounded to the nearest whole number, halves up, in 32 bits.

    The product has more bits; so whole numbers of ``target`` and its parts are divided apart, and what they leave is
    added.
    """
    whole, parts = _divided(target, PARTS)
    quotient, rest = _divided(side * whole, length)
    of_parts, rest_of_parts = _divided(side * parts, length)
    further, parts_left = _divided(of_parts, PARTS)
    left = rest * PARTS + parts_left * length + rest_of_parts  # of length * PARTS
    return quotient + further + (left + length * (PARTS // 2)) // (length * PARTS)


def _divided(number: int, divisor: int) -> tuple[int, int]:
    """Quotient and remainder; exporters lack the remainder of a traced length."""
    quotient = number // divisor
    return quotient, number - quotient * divisor


class CropProgram(ExtractionProgram):
    """:class:`~objemb.extractors.crop.Crop` at one scale.

    Args:
        backbone: The network.
        side: Of its square input in pixels.
        margin: See :class:`~objemb.extractors.crop.Crop`.
        padded: Whether a crop keeps its aspect, on a canvas of the background colour.
        background: ``(3,)``, RGB, 0 to 1.
    """

    background: Tensor

    def __init__(self, backbone: Backbone, side: int, margin: float, padded: bool, background: Tensor) -> None:
        super().__init__()
        self.backbone, self.side, self.margin, self.padded = backbone, side, margin, padded
        self.register_buffer("background", background, persistent=False)

    def grid(self, photos: Tensor) -> None:
        """See :meth:`ExtractionProgram.grid`: there is no map."""
        return

    def forward(self, photos: Tensor) -> list[TracedFeatures]:
        """See :meth:`ExtractionProgram.forward`."""
        return [_TracedCrops(self, photo) for photo in photos.unbind()]

    def maps(self, photo: Tensor, boxes: Tensor) -> Tensor:
        """The maps ``(N, C, h, w)`` of boxes ``(N, 4)`` in pixels of a photo ``(H, W, 3)``."""
        height, width = photo.shape[:2]
        cuts = windows(boxes, lengths((height, width), photo), self.margin).double()
        ends = cuts[:, 2:] - cuts[:, :2]
        sizes = torch.full_like(ends, self.side)
        if self.padded:
            sizes = (ends * (self.side / ends.amax(dim=1, keepdim=True)) + 0.5).floor().clamp(min=1)
        first = ((self.side - sizes) / 2).floor()
        begin, stop, sizes, first = (sides.flip(1) for sides in (cuts[:, :2], cuts[:, 2:], sizes, first))
        pixels = resized_parts(photo, begin, stop, sizes, first, (self.side, self.side)) / 255
        if self.padded:
            places = torch.arange(self.side, device=photo.device)
            down, across = (
                (places >= first[:, i : i + 1]) & (places < first[:, i : i + 1] + sizes[:, i : i + 1]) for i in (0, 1)
            )
            inside = down[:, None, :, None] & across[:, None, None, :]
            pixels = torch.where(inside, pixels, self.background[:, None, None])
        maps: Tensor = self.backbone(pixels)
        return maps


class _TracedMap(TracedFeatures):
    def __init__(self, map_: Tensor, grid: TracedGrid, sampling: Sampling) -> None:
        self._map, self._grid, self._sampling = map_, grid, sampling

    @property
    def map(self) -> Tensor:
        return self._map[0]

    def pool(self, boxes: Tensor, pooling: Pooling) -> Tensor:
        cells = self._grid.to_cells(boxes)
        if self._sampling.kind == "aligned":
            rois = torch.cat([boxes.new_zeros(boxes.shape[0], 1), cells], dim=1)
            pooled: Tensor = pooling(roi_align(self._map, rois, self._sampling.samples, sampling_ratio=2, aligned=True))
            return pooled
        return pooling.rectangles_of_one(self._map, touched_cells(cells, self._grid.raster))


class _TracedCrops(TracedFeatures):
    def __init__(self, program: CropProgram, photo: Tensor) -> None:
        self._program, self._photo = program, photo

    def pool(self, boxes: Tensor, pooling: Pooling) -> Tensor:
        pooled: Tensor = pooling(self._program.maps(self._photo, boxes))
        return pooled
