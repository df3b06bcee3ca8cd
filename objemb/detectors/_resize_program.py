"""The resize of torchvision's detectors for photos of any size, with tensors and integer arithmetic only."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn

#: Photos with a longer side may be one pixel smaller than in PyTorch, because they are beyond the end of a table.
LONGEST = (1 << 15) - 1


class ResizeProgram(nn.Module):
    """Bilinear resize without antialiasing to the size that torchvision's detectors choose, with padding to a multiple.

    A detector multiplies each side of a photo by the float64 ``min(shorter / min(H, W), longer / max(H, W))`` and
    rounds down. In the float32 of many runtimes, the result would often be a pixel off, so the sides are computed here
    in integers as ``H * m // s``, where ``m / s`` is the smaller of the two quotients. The two differ if ``H * m / s``
    is an integer N that float64 falls short of, so that rounding down yields ``N - 1``, see :func:`_shortfalls`.

    The number of rows and columns of cells is read from these tensors. As expressions of H and W, the lengths of all
    maps would be nested quotients, over which a tracer spends half of its time.

    Args:
        shorter: Target length of the shorter side of a photo, in pixels.
        longer: Maximum length of the longer side, in pixels.
        multiple: Both sides are padded to multiples of this, at the right and at the bottom.
        mean, std: ``(3,)``: mean and standard deviation by which pixels from 0 to 1 are normalised.
        colour: ``(3,)``: colour of the padding, normalised.
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
        extremes = cast(tuple[int, int], (torch.sym_min(height, width), torch.sym_max(height, width)))
        size = self._size((height, width), extremes)
        padded = [self.multiple * cells for cells in self._cells((height, width), size)]
        # runtimes vectorise over the last axis, which is therefore a long one rather than the three channels
        rows = _resampled(photos.flatten(2), height, size[0], padded[0]).reshape(count, padded[0], width, 3)
        columns = _resampled(rows.permute(0, 2, 3, 1).flatten(2), width, size[1], padded[1])
        pixels = columns.reshape(count, padded[1], 3, padded[0]).permute(0, 2, 3, 1)
        inside = ((_places(padded[0], size)[:, None] < size[0]) & (_places(padded[1], size) < size[1])).float()
        normalised = (pixels * self.factor + self.offset) * inside
        return (normalised + self.colour * (1 - inside) if self.has_colour else normalised), size

    def _cells(self, sides: tuple[int, int], size: Tensor) -> tuple[int, int]:
        """Rows and columns of cells of ``multiple`` pixels that hold a photo of ``size`` in the network."""
        if not any(isinstance(side, torch.SymInt) for side in sides):  # known, and known to remain so when traced
            factor = min(self.shorter / min(sides), self.longer / max(sides))
            rows, columns = (max(1, math.ceil(int(side * factor) / self.multiple)) for side in sides)
            return rows, columns
        cells = (size.long() + (self.multiple - 1)) // self.multiple
        rows, columns = (cast(int, number.item()) for number in cells)
        for number in (rows, columns):
            torch._check(number >= 1)
            torch._check(number <= self.longer // self.multiple + 1)
        return rows, columns

    def _size(self, sides: tuple[int, int], extremes: tuple[int, int]) -> Tensor:
        """float32 ``(2,)``: height and width at which a photo enters the network."""
        device = self.lost.device
        lengths = torch.stack([_number(side, device) for side in sides])
        short, long = (_number(side, device) for side in extremes)
        limited = (self.shorter * long > self.longer * short).long()  # 1 if the longer side determines the factor
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
    """The amounts by which float64 falls short of the quotients ``target / s``, for each s up to ``LONGEST``.

    The float64 is ``k / 2 ** e`` with k of 53 bits. If k was rounded down, ``H * k / 2 ** e`` falls short of
    ``N = H * target / s`` by ``(target * 2 ** e - k * s) * H / (s * 2 ** e)``. It is rounded to N unless that exceeds
    half the distance between N and the preceding float64, which is ``2 ** (j - 52)`` for the largest ``2 ** j`` below
    N. The result is therefore below N if ``lost * H > s * 2 ** (j - 1 - exponent)``.

    Returns:
        Two tensors, int64 ``(LONGEST + 1,)``: ``lost = target * 2 ** e - k * s``, 0 if k was rounded up or is exact,
        and ``exponent = 52 - e``, the exponent of the quotient.
    """
    lost, exponents = [0], [0]
    for divisor in range(1, LONGEST + 1):
        mantissa, exponent = math.frexp(target / divisor)
        scale = 53 - exponent
        lost.append(max(0, (target << scale) - int(mantissa * (1 << 53)) * divisor))
        exponents.append(exponent - 1)
    return torch.tensor(lost), torch.tensor(exponents)


def _number(value: int, device: torch.device) -> Tensor:
    """A length, which may be symbolic, as a tensor."""
    return torch.full((), 1, dtype=torch.int64, device=device) * value


def _places(count: int, like: Tensor) -> Tensor:
    """float32 ``(count,)``: 0, 1, 2 ..."""
    return torch.arange(count, device=like.device).to(torch.float32)


def _resampled(lines: Tensor, length: int, resized: Tensor, count: int) -> Tensor:
    """Linear interpolation of lines ``(B, length, N)``, as by ``F.interpolate``, to ``(B, count, N)``: the first
    ``resized`` of the ``count`` positions span the axis, the others repeat its end."""
    source = ((_places(count, resized) + 0.5) * (length / resized) - 0.5).clamp(min=0)
    low = source.floor().clamp(max=length - 1)
    fraction = (source - low).clamp(max=1)[:, None]
    first = lines.index_select(1, low.long()).float()
    second = lines.index_select(1, (low + 1).clamp(max=length - 1).long()).float()
    return first + (second - first) * fraction
