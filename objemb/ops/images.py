"""From decoded bytes to the input of a network.

The resize rule is the same everywhere: both sides are scaled by the factor that brings the longest (or shortest) side
of the *original* image to the requested size, and rounded to the nearest pixel, or to the nearest multiple that the
network needs, with halves rounded up. Pixels are resized with an antialiased bilinear filter (``align_corners=False``).
Images are never padded to make a batch; images of equal shape share one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb import checks

#: Sides of an image that a size may refer to.
SIDES = ("longest", "shortest")


def nearest_multiple(value: float, multiple: int = 1, smallest: int = 1) -> int:
    """The multiple nearest to ``value`` (halves are rounded up) that is at least ``smallest``."""
    return max(math.floor(value / multiple + 0.5), math.ceil(smallest / multiple), 1) * multiple


def input_size(
    size: tuple[int, int], target: float, side: str = "longest", multiple: int = 1, smallest: int = 1
) -> tuple[int, int]:
    """Height and width at which an image enters the network.

    Args:
        size: ``(height, width)`` of the image.
        target: Length of the chosen side in pixels.
        side: ``"longest"`` or ``"shortest"``.
        multiple: Both sides become a multiple of this.
        smallest: Minimum of both sides; a strip of one pixel would vanish in the network.
    """
    checks.one_of("side", side, SIDES)
    factor = checks.positive("target", target) / (max(size) if side == "longest" else min(size))
    height, width = (nearest_multiple(s * factor, multiple, smallest) for s in size)
    return height, width


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Antialiased bilinear resize of bytes to bytes.

    On a CPU, resizing bytes is several times faster than resizing floats, and differs by at most one grey level.

    Args:
        pixels: uint8 ``(3, h, w)``.
        size: ``(height, width)`` of the result.
    """
    if tuple(pixels.shape[1:]) == tuple(size):
        return pixels
    # PyTorch's CPU kernels fail, or mix up colours, if a result is one pixel wide, or if the memory format of an image
    # that is one pixel wide or high is ambiguous
    pixels = pixels.clone(memory_format=torch.contiguous_format) if 1 in pixels.shape[1:] else pixels
    if size[1] == 1:
        if size[0] > 1:
            return resize(pixels.transpose(1, 2), (1, size[0])).transpose(1, 2).contiguous()
        row = pixels if pixels.shape[2] == 1 else resize(pixels, (1, pixels.shape[2])).transpose(1, 2)
        return resize(row.expand(-1, -1, 2).contiguous(), (1, 2))[:, :, :1].contiguous()
    source = pixels[None] if pixels.device.type == "cpu" else pixels[None].float()  # only the CPU resizes bytes
    resized = F.interpolate(source, size=size, mode="bilinear", antialias=True, align_corners=False)
    return resized[0] if resized.dtype == torch.uint8 else resized[0].round().clamp(0, 255).byte()


def as_batch(images: Sequence[Tensor], device: torch.device | str) -> Tensor:
    """Images of one shape as the input of a network.

    Args:
        images: uint8 ``(3, h, w)`` each, at least one.
        device: Device of the network. Bytes are copied to it and converted to floats there.

    Returns:
        float32 ``(B, 3, h, w)``, 0 to 1, in ``channels_last`` format, which makes convolutions up to twice as fast.
    """
    stacked = torch.stack(list(images)).to(device)
    return stacked.contiguous(memory_format=torch.channels_last).float().div_(255)
