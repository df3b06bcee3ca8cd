"""Windows: parts of a photo, resized so that an object has the size on which a head was trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from objemb.ops.batches import batched, group_equal
from objemb.ops.boxes import scale
from objemb.ops.images import resize
from objemb.ops.tensors import as_tensor
from objemb.structures import Photo, Regions

#: Context around the box in a window, in pixels, because the receptive fields of the first layers extend beyond a box.
MARGIN = 8
#: Rounding error of a length in pixels in float32.
ROUNDING = 0.01
#: Largest number of windows in a batch.
BATCH = 32


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one shape.

    Attributes:
        numbers: For each window, the index of its box among those of all photos.
        pixels: float32 ``(M, 3, h, w)``, RGB, 0 to 1.
        boxes: float32 ``(M, 4)``: the box in pixels of its window.
    """

    numbers: list[int]
    pixels: Tensor
    boxes: Tensor


def windows_around(
    photos: Sequence[Photo],
    regions: Sequence[Regions],
    chosen: Sequence[bool],
    side: float,
    colour: Tensor,
    multiple: int = 16,
) -> Iterator[Windows]:
    """A window around each chosen box, in which the longer side of the box is ``side`` pixels long.

    It is cut from the decoded pixels, which may be more than those of a detector's input, and includes context from the
    photo around the box. Beyond the edge of the photo, ``colour`` fills the window at the right and at the bottom.

    Args:
        photos: The photos.
        regions: The boxes of each photo, in original pixels.
        chosen: For all boxes, photo by photo, whether to cut a window.
        side: Longer side of a box in its window, in pixels.
        colour: float ``(3,)``, RGB, 0 to 1.
        multiple: Sides of windows are multiples of this, so that there are few different shapes and windows can share
            a batch.

    Yields:
        At most ``BATCH`` windows of one shape; the boxes are in no particular order.
    """
    owners = [photo for photo, of_photo in zip(photos, regions, strict=True) for _ in of_photo.boxes]
    boxes = [box for photo, r in zip(photos, regions, strict=True) for box in scale(as_tensor(r.boxes), photo.scale)]
    numbers = [number for number, wanted in enumerate(chosen) if wanted]
    cuts = [_cut(owners[n], boxes[n], side, multiple) for n in numbers]
    for group in group_equal(cut.shape for cut in cuts):
        for some in batched(group, BATCH):
            pixels = torch.stack([_window(owners[numbers[i]], cuts[i], colour) for i in some])
            yield Windows([numbers[i] for i in some], pixels, torch.stack([cuts[i].box for i in some]))


@dataclass(frozen=True)
class _Cut:
    """The geometry of a window: ``part`` (x1, y1, x2, y2) of the decoded pixels is resized to ``size`` in a window of
    ``shape``, both ``(height, width)``; ``box`` is the box in pixels of the window."""

    part: tuple[int, int, int, int]
    size: tuple[int, int]
    shape: tuple[int, int]
    box: Tensor


def _cut(photo: Photo, box: Tensor, side: float, multiple: int) -> _Cut:
    height, width = photo.pixels.shape[1:]
    x1, y1, x2, y2 = (float(v) for v in box)
    factor = side / max(x2 - x1, y2 - y1, 1.0)
    left, right, columns = _span(x1, x2, width, factor, multiple)
    top, bottom, rows = _span(y1, y2, height, factor, multiple)
    size = (min(rows, max(1, round((bottom - top) * factor))), min(columns, max(1, round((right - left) * factor))))
    moved = scale(box - box.new_tensor([left, top, left, top]), (size[0] / (bottom - top), size[1] / (right - left)))
    return _Cut((left, top, right, bottom), size, (rows, columns), moved)


def _span(low: float, high: float, end: int, factor: float, multiple: int) -> tuple[int, int, int]:
    """First and last pixel of a window along one side of a photo of ``end`` pixels, and the pixels of the window."""
    wanted = min((high - low) * factor + 2 * MARGIN, end * factor)
    length = multiple * max(1, math.ceil((wanted - ROUNDING) / multiple))
    half = length / factor / 2
    first = min(max((low + high) / 2 - half, 0), max(end - 2 * half, 0))
    begin = min(math.floor(first), end - 1)
    return begin, max(begin + 1, min(end, math.ceil(first + 2 * half))), length


def _window(photo: Photo, cut: _Cut, colour: Tensor) -> Tensor:
    left, top, right, bottom = cut.part
    part = resize(as_tensor(photo.pixels)[:, top:bottom, left:right].contiguous(), cut.size)
    if cut.size == cut.shape:
        return part.float() / 255
    window = colour.to(part.device).float()[:, None, None].repeat(1, *cut.shape)
    window[:, : cut.size[0], : cut.size[1]] = part.float() / 255
    return window
