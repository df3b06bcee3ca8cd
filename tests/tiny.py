"""A small network and small photos whose every cell and pixel can be reasoned about."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb.backbones.base import Backbone
from objemb.structures import Photo


class TinyBackbone(Backbone):
    """One convolution whose kernel is its stride: cell (i, j) sees exactly its own pixels."""

    def __init__(self, *, stride: int = 4, channels: int = 5, rounds: str = "down", multiple: int = 1) -> None:
        super().__init__()
        self.stride, self.channels, self.rounds, self.multiple = stride, channels, rounds, multiple
        self.smallest = stride
        self.surplus = stride - 1 if rounds == "up" else 0
        weight = torch.randn(channels, 3, stride, stride, generator=torch.Generator().manual_seed(0))
        self.register_buffer("weight", weight)
        self.seen: list[Tensor] = []
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        self.seen.append(pixels)
        if self.rounds == "up":
            height, width = pixels.shape[2:]
            pixels = F.pad(pixels, (0, -width % self.stride, 0, -height % self.stride))
        return F.conv2d(pixels, self.weight, stride=self.stride).relu()


class Colours(TinyBackbone):
    """A channel for red, one for green, one for blue: cells of 4 x 4 pixels."""

    def __init__(self) -> None:
        super().__init__(channels=3)
        self.weight = torch.eye(3)[:, :, None, None].expand(3, 3, 4, 4) / 16


def noise_photo(height: int, width: int, *, size: tuple[int, int] | None = None, seed: int = 0) -> Photo:
    """Independent pixels, under a name that says the size."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    return Photo(f"{height}x{width}", pixels, size or (height, width))


def random_photo(
    height: int, width: int, *, seed: int = 0, id: str = "photo", size: tuple[int, int] | None = None
) -> Photo:
    """Smooth noise; ``size`` is the original's where it differs from the decoded pixels."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(1, 3, max(2, height // 4), max(2, width // 4), generator=generator)
    pixels = F.interpolate(noise, size=(height, width), mode="bilinear")[0] * 255
    return Photo(id, pixels.byte(), size or (height, width), {"seed": seed})


def plain_photo(height: int, width: int, colour: tuple[int, int, int], *, id: str = "plain") -> Photo:
    pixels = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, height, width).clone()
    return Photo(id, pixels, (height, width))
