"""The positions of a feature map's cells on a photo."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The cells of a feature map on a photo, each around the centre of its receptive field; or original pixels.

    Attributes:
        height: Number of cells from top to bottom.
        width: Number of cells from left to right.
        cell: ``(height, width)`` of a cell in original pixels.
        offset: ``(y, x)`` of the outer corner of the first cell in original pixels: negative for a network with
            padding, whose first cell is centred on the first pixel. The last cells may extend beyond the image, or end
            before.
        stride: Pixels of the network's input per cell; 1 if the cells are pixels.
    """

    height: int
    width: int
    cell: tuple[float, float]
    offset: tuple[float, float] = (0.0, 0.0)
    stride: int = 1

    def shape(self, size: tuple[int, int]) -> tuple[int, int]:
        """``(height, width)`` of the network's input for a photo of ``size``."""
        height, width = (round(self.stride * s / c) for s, c in zip(size, self.cell, strict=True))
        return height, width

    def to_cells(self, boxes: Tensor) -> Tensor:
        """Boxes ``(N, 4)`` in original pixels, in cells: cell ``j`` spans ``j <= x <= j + 1``."""
        return (boxes - _xyxy(boxes, self.offset)) / _xyxy(boxes, self.cell)

    def to_pixels(self, boxes: Tensor) -> Tensor:
        """The inverse of :meth:`to_cells`; boxes may extend beyond the photo."""
        return boxes * _xyxy(boxes, self.cell) + _xyxy(boxes, self.offset)


def pixel_grid(size: tuple[int, int]) -> Grid:
    """The pixels of an original photo of ``(height, width)`` as cells."""
    return Grid(size[0], size[1], (1.0, 1.0))


def map_grid(
    raster: tuple[int, int], shape: tuple[int, int], size: tuple[int, int], stride: int, offset: float
) -> Grid:
    """The grid of a feature map.

    Args:
        raster: ``(height, width)`` of the map.
        shape: ``(height, width)`` in pixels with which the photo entered the network.
        size: ``(height, width)`` of the original photo.
        stride: Of the map, in pixels of the input.
        offset: Where its first cell begins, likewise; see :class:`objemb.backbones.base.Backbone`.
    """
    down, across = size[0] / shape[0], size[1] / shape[1]
    return Grid(*raster, (stride * down, stride * across), (offset * down, offset * across), stride)


@dataclass(frozen=True, eq=False)
class TracedGrid:
    """The same as tensors, for programs that are traced, where the sizes of photos vary.

    Attributes:
        raster: int64 ``(2,)``: height and width of the map in cells.
        size: int64 ``(2,)``: height and width of the photo in pixels.
        shape: int64 ``(2,)``: the same of the input of the network.
        stride: Pixels of the input along a cell.
        offset: Where the first cell begins, in pixels of the input.
    """

    raster: Tensor
    size: Tensor
    shape: Tensor
    stride: int
    offset: float

    def to_cells(self, boxes: Tensor) -> Tensor:
        """See :meth:`Grid.to_cells`."""
        return (boxes - self._pixel * self.offset) / (self._pixel * self.stride)

    def to_pixels(self, boxes: Tensor) -> Tensor:
        """See :meth:`Grid.to_pixels`."""
        return boxes * (self._pixel * self.stride) + self._pixel * self.offset

    @property
    def _pixel(self) -> Tensor:
        """float32 ``(4,)``: width, height, width and height of a pixel of the input in pixels of the photo."""
        return (self.size.double() / self.shape.double()).flip(0).repeat(2).float()


def lengths(sides: tuple[int, int], like: Tensor) -> Tensor:
    """int64 ``(2,)`` of two lengths, which may be those of tensors of any shape in a program that is traced."""
    one = torch.ones((), dtype=torch.int64, device=like.device)
    return torch.stack([one * sides[0], one * sides[1]])


def _xyxy(boxes: Tensor, values: tuple[float, float]) -> Tensor:
    y, x = values
    return boxes.new_tensor([x, y, x, y])
