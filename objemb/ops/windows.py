"""The geometry of windows: parts of a picture, resized so that an object in it has a given size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

#: Context around the box in a window, in pixels, because the receptive fields of the first layers extend beyond a box.
MARGIN = 8
#: Rounding error of a length in pixels in float32.
ROUNDING = 0.01
#: A head trained at one size works for objects up to half an octave smaller or larger.
OCTAVES = 0.5


@dataclass(frozen=True)
class Cut:
    """The geometry of a window.

    Attributes:
        part: ``(x1, y1, x2, y2)``, whole pixels of the picture.
        size: ``(height, width)`` to which the part is resized, in the upper left corner of the window.
        shape: ``(height, width)`` of the window.
        box: ``(x1, y1, x2, y2)``, the box in pixels of the window.
    """

    part: tuple[int, int, int, int]
    size: tuple[int, int]
    shape: tuple[int, int]
    box: tuple[float, float, float, float]


def cut(picture: tuple[int, int], box: Sequence[float], side: float, multiple: int) -> Cut:
    """The window around a box in which the longer side of the box is ``side`` pixels long.

    Args:
        picture: ``(height, width)`` of the picture.
        box: ``(x1, y1, x2, y2)`` in its pixels.
        side: Longer side of the box in the window, in pixels.
        multiple: Sides of the window are multiples of this.
    """
    height, width = picture
    x1, y1, x2, y2 = (float(v) for v in box)
    factor = side / max(x2 - x1, y2 - y1, 1.0)
    left, right, columns = _span(x1, x2, width, factor, multiple)
    top, bottom, rows = _span(y1, y2, height, factor, multiple)
    size = (min(rows, max(1, round((bottom - top) * factor))), min(columns, max(1, round((right - left) * factor))))
    down, across = size[0] / (bottom - top), size[1] / (right - left)
    moved = ((x1 - left) * across, (y1 - top) * down, (x2 - left) * across, (y2 - top) * down)
    return Cut((left, top, right, bottom), size, (rows, columns), moved)


def _span(low: float, high: float, end: int, factor: float, multiple: int) -> tuple[int, int, int]:
    """First and last pixel of a window along one side of a picture of ``end`` pixels, and the pixels of the window."""
    wanted = min((high - low) * factor + 2 * MARGIN, end * factor)
    length = multiple * max(1, math.ceil((wanted - ROUNDING) / multiple))
    half = length / factor / 2
    first = min(max((low + high) / 2 - half, 0), max(end - 2 * half, 0))
    begin = min(math.floor(first), end - 1)
    return begin, max(begin + 1, min(end, math.ceil(first + 2 * half))), length
