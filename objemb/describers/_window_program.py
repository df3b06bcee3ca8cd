"""Windows around boxes for programs that are traced: every window on a canvas of one shape."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from objemb.ops.byte_resize import BYTES, FLOATS, resized_parts
from objemb.ops.windows import MARGIN, ROUNDING

#: Largest difference of maps, of values around 1, between a window and the same window on a canvas, that is rounding.
TOLERANCE = 1e-3


class WindowProgram(nn.Module):
    """What :func:`objemb.describers._windows.windows_around` gives of a photo, or
    :func:`objemb.ops.windows.input_windows` of a network's input, each window in the corner of a square canvas.

    Pixels are resized as PyTorch does, see :mod:`objemb.ops.byte_resize`.

    Args:
        side: Longer side of a box in its window, in pixels.
        colour: float ``(3,)``, RGB, 0 to 1: of what a photo does not fill; None for windows of an input, which is zero
            there.
        multiple: Sides of windows are multiples of this.

    Attributes:
        canvas: Side of the canvas in pixels.
    """

    colour: Tensor

    def __init__(self, side: float, colour: Tensor | None, multiple: int) -> None:
        super().__init__()
        self.side, self.multiple = side, multiple
        self.rounding, self.white = (FLOATS, 1.0) if colour is None else (BYTES, 255.0)
        self.canvas = multiple * max(1, math.ceil((side + 2 * MARGIN - ROUNDING) / multiple))
        self.register_buffer("colour", torch.zeros(3) if colour is None else colour.clone().float(), persistent=False)

    def forward(self, picture: Tensor, extent: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cut and resize.

        Args:
            picture: ``(H, W, 3)``: a photo, uint8, or an input, float32.
            extent: ``(2,)``: height and width of what is in it, without padding.
            boxes: float32 ``(M, 4)`` in its pixels, M at least 1.

        Returns:
            float32 ``(M, 3, canvas, canvas)``, 0 to 1 or as the input; int64 ``(M, 2)``, rows and columns of each
            window; and the boxes in pixels of their windows.
        """
        ends, corners = extent.double(), boxes.double()
        low, high = corners[:, [1, 0]], corners[:, [3, 2]]
        factor = self.side / (high - low).amax(dim=1, keepdim=True).clamp(min=1.0)
        wanted = torch.minimum((high - low) * factor + 2 * MARGIN, ends * factor)
        lengths = self.multiple * ((wanted - ROUNDING) / self.multiple).ceil().clamp(min=1)
        half = lengths / factor / 2
        first = torch.minimum(((low + high) / 2 - half).clamp(min=0), (ends - 2 * half).clamp(min=0))
        begin = torch.minimum(first.floor(), ends - 1)
        stop = torch.maximum(begin + 1, torch.minimum(ends, (first + 2 * half).ceil()))
        sizes = torch.minimum(lengths, ((stop - begin) * factor).round().clamp(min=1))
        scale = (sizes / (stop - begin)).float()
        moved = (boxes - begin.float().flip(1).repeat(1, 2)) * scale.flip(1).repeat(1, 2)
        canvas = self.canvas, self.canvas
        corner = torch.zeros_like(sizes)
        pixels = resized_parts(picture, begin, stop, sizes, corner, canvas, self.rounding) / self.white
        places = torch.arange(self.canvas, device=boxes.device)
        filled = places < sizes[:, :, None]
        inside = filled[:, 0, :, None] & filled[:, 1, None, :]
        return torch.where(inside[:, None], pixels, self.colour[:, None, None]), lengths.long(), moved


class CanvasMaps(nn.Module):
    """Maps of windows on canvases as a network computes them of the windows alone.

    A layer reads zeros beyond the border of a map. Before every layer that reads more than one cell, what lies beyond a
    window is therefore set to zero (to minus infinity for a maximum), and in the end the last row and column of each
    window is repeated, since RoI align repeats the border of a map.

    Args:
        maps: From pixels ``(M, 3, h, w)`` to the maps, ``(M, C, h', w')`` each.
        network: The module whose layers compute them.
        canvas: Side of the canvases.
        least: The least side of a window.

    Raises:
        ValueError: The layers compute a cell from more than its surroundings, as a squeeze-and-excitation that is no
            module does.
    """

    def __init__(self, maps: Callable[[Tensor], Sequence[Tensor]], network: nn.Module, canvas: int, least: int) -> None:
        super().__init__()
        self.network, self.canvas = network, canvas
        self._maps = maps
        self._expect_equal(least)

    def forward(self, pixels: Tensor, sizes: Tensor) -> list[Tensor]:
        """The maps.

        Args:
            pixels: float32 ``(M, 3, canvas, canvas)``.
            sizes: int64 ``(M, 2)``: rows and columns of each window.

        Returns:
            Each ``(M, C, h', w')``, the map of the window in the upper left corner, its border repeated.
        """
        with self._masked(sizes):
            maps = self._maps(pixels)
        return [self._repeated(map_, sizes) for map_ in maps]

    @contextmanager
    def _masked(self, sizes: Tensor) -> Iterator[None]:
        """Within the block, layers see each window as if the map ended with it."""

        def within(map_: Tensor, outside: float) -> Tensor:
            return torch.where(self._inside(map_, sizes), map_, outside)

        def before_convolution(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return within(args[0], 0.0), *args[1:]

        def before_maximum(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return within(args[0], -math.inf), *args[1:]

        def mean(_: nn.Module, args: tuple[Tensor, ...], __: Tensor) -> Tensor:
            inside = self._inside(args[0], sizes)
            return within(args[0], 0.0).sum(dim=(2, 3), keepdim=True) / inside.sum(dim=(2, 3), keepdim=True)

        handles: list[RemovableHandle] = []
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
                handles.append(module.register_forward_pre_hook(before_convolution))
            elif isinstance(module, nn.MaxPool2d):
                handles.append(module.register_forward_pre_hook(before_maximum))
            elif isinstance(module, nn.AdaptiveAvgPool2d):
                handles.append(module.register_forward_hook(mean))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _inside(self, map_: Tensor, sizes: Tensor) -> Tensor:
        """bool ``(M, 1, h, w)``: the cells of the windows."""
        height, width = map_.shape[2:]
        rows = torch.arange(height, device=map_.device) < self._cells(sizes[:, :1], height)
        columns = torch.arange(width, device=map_.device) < self._cells(sizes[:, 1:], width)
        return (rows[:, :, None] & columns[:, None, :])[:, None]

    def _cells(self, sides: Tensor, cells: int) -> Tensor:
        """Of ``sides`` in pixels, in cells of a map that has ``cells`` on a side of the canvas."""
        return sides // (self.canvas // cells)

    def _repeated(self, map_: Tensor, sizes: Tensor) -> Tensor:
        height, width = map_.shape[2:]
        channels = map_.shape[1]
        rows = torch.minimum(torch.arange(height, device=map_.device), self._cells(sizes[:, :1], height) - 1)
        columns = torch.minimum(torch.arange(width, device=map_.device), self._cells(sizes[:, 1:], width) - 1)
        map_ = map_.gather(2, rows[:, None, :, None].expand(-1, channels, -1, width))
        return map_.gather(3, columns[:, None, None, :].expand(-1, channels, height, -1))

    @torch.no_grad()
    def _expect_equal(self, least: int) -> None:
        """Compare the maps of a small window with those on a canvas that is noise beyond it."""
        noise = torch.rand(1, 3, self.canvas, self.canvas, generator=torch.Generator().manual_seed(0))
        window = noise[:, :, :least]
        expected = self._maps(window)
        found = self(noise, torch.tensor([[least, self.canvas]]))
        for whole, part in zip(found, expected, strict=True):
            error = (whole[:, :, : part.shape[2]] - part).abs().max() / part.abs().max().clamp(min=1e-6)
            if error > TOLERANCE:
                raise ValueError(
                    "object_side: expected layers that compute a cell from its surroundings alone, as exported windows "
                    f"need them, found ones that differ by {float(error):.3f} with what is around a window"
                )
