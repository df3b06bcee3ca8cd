"""Torchvision's resize of photos of any size, in whole numbers and tensors alone."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

#: Photos with a longer side may be resized to one pixel less than PyTorch resizes them to: it is the end of a table.
LONGEST = (1 << 15) - 1


class ResizeProgram(nn.Module):
    """Bilinear resize, without antialiasing, to the size that torchvision's detectors give a photo, padded to a
    multiple.

    A detector multiplies each side of a photo by the float64 ``min(shorter / min(H, W), longer / max(H, W))`` and
    rounds down. Runtimes that compute in float32 would often be a pixel off, so here the sides are ``H * m // s`` in
    whole numbers, where ``m / s`` is the lesser of the two quotients. They differ where ``H * m / s`` is a whole number
    N and float64 falls short of it, so that rounding down gives ``N - 1``, see :func:`_shortfalls`. Such a side keeps
    the padding of N: one more row of cells where N - 1 is a multiple of ``multiple``.

    Args:
        shorter: Length to which the shorter side of a photo is brought, in pixels.
        longer: The longer side never exceeds this.
        multiple: Both sides are padded to multiples of this, at the right and at the bottom.
        mean, std: ``(3,)``: what the network expects pixels from 0 to 1 to be reduced by, and then divided by.
        colour: ``(3,)``: of the padding, in the units of the network's input.
    """

    lost: Tensor
    exponents: Tensor
    halves: Tensor
    factor: Tensor
    offset: Tensor
    colour: Tensor

    def __init__(self, shorter: int, longer: int, multiple: int, mean: Tensor, std: Tensor, colour: Tensor) -> None:
        super().__init__()
        self.shorter, self.longer, self.multiple = shorter, longer, multiple
        lost, exponents = zip(*(_shortfalls(target) for target in (shorter, longer)), strict=True)
        self.register_buffer("lost", torch.stack(lost), persistent=False)
        self.register_buffer("exponents", torch.stack(exponents), persistent=False)
        below = [0, *((n - 1).bit_length() - 1 for n in range(1, longer + 1))]
        self.register_buffer("halves", torch.tensor(below) - 1, persistent=False)
        for name, values in {"factor": 1 / (255 * std), "offset": -mean / std, "colour": colour}.items():
            self.register_buffer(name, values.clone().float()[:, None, None], persistent=False)
        self.has_colour = bool(colour.any())

    def forward(self, photos: Tensor) -> tuple[Tensor, Tensor]:
        """The input of a network.

        Args:
            photos: uint8 ``(B, H, W, 3)``.

        Returns:
            float32 ``(B, 3, h, w)``, RGB, normalised, and the float32 ``(2,)`` height and width of the photo within it.
        """
        count, height, width, _ = photos.shape
        short, long = _min(height, width), _max(height, width)
        sides = [_max(1, _min(side * self.shorter // short, side * self.longer // long)) for side in (height, width)]
        padded = [(side + self.multiple - 1) // self.multiple * self.multiple for side in sides]
        size = self._size((height, width), (short, long))
        # the axis that is resampled has one long axis behind it: runtimes compute along the last axis, and three
        # channels there would be as slow as single numbers
        rows = _resampled(photos.flatten(2), height, size[0], padded[0]).reshape(count, padded[0], width, 3)
        columns = _resampled(rows.permute(0, 2, 3, 1).flatten(2), width, size[1], padded[1])
        pixels = columns.reshape(count, padded[1], 3, padded[0]).permute(0, 2, 3, 1)
        inside = ((_places(padded[0], size)[:, None] < size[0]) & (_places(padded[1], size) < size[1])).float()
        normalised = (pixels * self.factor + self.offset) * inside
        return (normalised + self.colour * (1 - inside) if self.has_colour else normalised), size

    def _size(self, sides: tuple[int, int], extremes: tuple[int, int]) -> Tensor:
        """float32 ``(2,)``: height and width at which a photo enters the network."""
        device = self.lost.device
        lengths = torch.stack([_number(side, device) for side in sides])
        short, long = (_number(side, device) for side in extremes)
        limited = (self.shorter * long > self.longer * short).long()  # 1 where the longer side decides
        target = self.shorter + limited * (self.longer - self.shorter)
        divisor = short + limited * (long - short)
        products = lengths * target
        quotients = products // divisor
        known = divisor.clamp(max=LONGEST)
        lost = torch.where(divisor <= LONGEST, self.lost[limited, known], 0)
        power = self.halves[quotients.clamp(max=len(self.halves) - 1)] - self.exponents[limited, known]
        falls_short = lost * lengths * 2 ** (-power).clamp(min=0) > divisor * 2 ** power.clamp(min=0)
        exact = products - quotients * divisor == 0
        return (quotients - (exact & falls_short).long()).clamp(min=1).float()


def _shortfalls(target: int) -> tuple[Tensor, Tensor]:
    """How far float64 falls short of quotients ``target / s``, for each s up to ``LONGEST``.

    The float64 is ``k / 2 ** e`` with k of 53 bits. Where k was rounded down, ``H * k / 2 ** e`` falls short of
    ``N = H * target / s`` by ``(target * 2 ** e - k * s) * H / (s * 2 ** e)``. It is rounded to N unless that is more
    than half the distance from N to the float64 before it, which is ``2 ** (j - 52)`` for the greatest ``2 ** j`` below
    N. So N is missed where ``lost * H > s * 2 ** (j - 1 - exponent)``.

    Returns:
        int64 ``(LONGEST + 1,)``: ``lost = target * 2 ** e - k * s``, 0 where k was rounded up or is exact; and
        ``exponent = 52 - e``, that of the quotient.
    """
    lost, exponents = [0], [0]
    for divisor in range(1, LONGEST + 1):
        mantissa, exponent = math.frexp(target / divisor)
        scale = 53 - exponent
        lost.append(max(0, (target << scale) - int(mantissa * (1 << 53)) * divisor))
        exponents.append(exponent - 1)
    return torch.tensor(lost), torch.tensor(exponents)


def _min(first: int, second: int) -> int:
    """The lesser length; either may be that of a tensor of any shape."""
    return cast(int, torch.sym_min(first, second))


def _max(first: int, second: int) -> int:
    return cast(int, torch.sym_max(first, second))


def _number(value: int, device: torch.device) -> Tensor:
    """A length, which may be that of a tensor of any shape, as a tensor."""
    return torch.full((), 1, dtype=torch.int64, device=device) * value


def _places(count: int, like: Tensor) -> Tensor:
    """float32 ``(count,)``: 0, 1, 2 ..."""
    return torch.arange(count, device=like.device).to(torch.float32)


def _resampled(lines: Tensor, length: int, resized: Tensor, count: int) -> Tensor:
    """Linear interpolation of lines ``(B, length, N)``, as ``F.interpolate`` has it, to ``(B, count, N)``: ``count``
    places, of which ``resized`` span the axis; the others repeat its end."""
    source = ((_places(count, resized) + 0.5) * (length / resized) - 0.5).clamp(min=0)
    low = source.floor().clamp(max=length - 1)
    share = (source - low).clamp(max=1)[:, None]
    first = lines.index_select(1, low.long()).float()
    second = lines.index_select(1, (low + 1).clamp(max=length - 1).long()).float()
    return first + (second - first) * share
