"""Windows: parts of a picture, resized so that an object in it has a given size."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from objemb.ops.batches import batched, group_equal

#: Context around the box in a window, in pixels, because the receptive fields of the first layers extend beyond a box.
MARGIN = 8
#: Rounding error of a length in pixels in float32.
ROUNDING = 0.01
#: A head trained at one size works for objects up to half an octave smaller or larger.
OCTAVES = 0.5
#: Largest number of windows in a batch.
BATCH = 32


class Cut(NamedTuple):
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


@dataclass(frozen=True, eq=False)
class Windows:
    """Windows of one shape.

    Attributes:
        numbers: For each window, the index of its box among those of all pictures.
        pixels: float32 ``(M, 3, h, w)``, in the values of the pictures.
        boxes: float32 ``(M, 4)``: the box in pixels of its window.
    """

    numbers: list[int]
    pixels: Tensor
    boxes: Tensor


def of_other_size(boxes: Tensor, side: float, octaves: float = OCTAVES) -> Tensor:
    """bool ``(N,)``: whether the longer side of each box ``(N, 4)`` is more than ``octaves`` from ``side``. TorchScript
    can compile it, which reads a global number as a default only."""
    sides = (boxes[:, 2:] - boxes[:, :2]).amax(dim=1)
    other: Tensor = (sides / side).log2().abs() > octaves
    return other


def windows_of(
    pictures: Sequence[Tensor],
    boxes: Sequence[Tensor],
    chosen: Sequence[bool],
    side: float,
    multiple: int,
    window: Callable[[Tensor, Cut], Tensor],
) -> Iterator[Windows]:
    """A window around each chosen box, in which the longer side of the box is ``side`` pixels long.

    Args:
        pictures: ``(3, H, W)`` each.
        boxes: float ``(N, 4)`` of each picture, in its pixels.
        chosen: For all boxes, picture by picture, whether to cut a window.
        side: Longer side of a box in its window, in pixels.
        multiple: Sides of windows are multiples of this, so that there are few different shapes and windows can share
            a batch.
        window: Gives the pixels ``(3, h, w)`` of a window of a picture.

    Yields:
        At most ``BATCH`` windows of one shape; the boxes are in no particular order.
    """
    owners = [picture for picture, of_picture in zip(pictures, boxes, strict=True) for _ in of_picture]
    every = [box for of_picture in boxes for box in of_picture.tolist()]
    numbers = [number for number, wanted in enumerate(chosen) if wanted]
    cuts = [cut((owners[n].shape[1], owners[n].shape[2]), every[n], side, multiple) for n in numbers]
    for group in group_equal(c.shape for c in cuts):
        for some in batched(group, BATCH):
            pixels = torch.stack([window(owners[numbers[i]], cuts[i]) for i in some])
            yield Windows([numbers[i] for i in some], pixels, torch.tensor([cuts[i].box for i in some]))


def window_shapes(
    picture: tuple[int, int], boxes: Tensor, chosen: Sequence[bool], side: float, multiple: int
) -> list[tuple[int, int]]:
    """``(height, width)`` of the windows of :func:`windows_of`, for the chosen boxes ``(N, 4)`` of one picture of that
    height and width, in order."""
    wanted = zip(boxes.tolist(), chosen, strict=True)
    return [cut(picture, box, side, multiple).shape for box, is_wanted in wanted if is_wanted]


def input_windows(
    images: Tensor,
    sizes: Sequence[tuple[int, int]],
    boxes: Sequence[Tensor],
    chosen: Sequence[bool],
    side: float,
    multiple: int,
) -> Iterator[Windows]:
    """Windows of the input of a network, see :func:`windows_of`.

    Args:
        images: float ``(B, 3, h, w)``, normalised, so that zero is the mean colour, which fills what is beyond them.
        sizes: ``(height, width)`` of each image in it, without padding.
        boxes: ``(N, 4)`` of each image, in pixels of the input.
        chosen, side, multiple: As for :func:`windows_of`.
    """
    pictures = [image[:, :height, :width] for image, (height, width) in zip(images, sizes, strict=True)]
    return windows_of(pictures, boxes, chosen, side, multiple, input_window)


def input_window(image: Tensor, of_box: Cut) -> Tensor:
    """The window ``(3, h, w)`` of an image ``(3, H, W)``, zero where the image ends. TorchScript can compile it."""
    left, top, right, bottom = of_box.part
    part = image[None, :, top:bottom, left:right]
    height, width = of_box.size
    if width == 1:  # PyTorch's CPU kernel mixes up colours if it resizes both sides to a result of this width
        part = F.interpolate(part, size=[height, part.shape[3]], mode="bilinear", antialias=True, align_corners=False)
    part = F.interpolate(part, size=[height, width], mode="bilinear", antialias=True, align_corners=False)
    return F.pad(part[0], [0, of_box.shape[1] - width, 0, of_box.shape[0] - height])


def cut(picture: tuple[int, int], box: list[float], side: float, multiple: int) -> Cut:
    """The window around a box in which the longer side of the box is ``side`` pixels long. TorchScript can compile it.

    Args:
        picture: ``(height, width)`` of the picture.
        box: ``(x1, y1, x2, y2)`` in its pixels.
        side: Longer side of the box in the window, in pixels.
        multiple: Sides of the window are multiples of this.
    """
    height, width = picture
    x1, y1, x2, y2 = box[0], box[1], box[2], box[3]
    factor = side / max(max(x2 - x1, y2 - y1), 1.0)
    left, right, columns = _span(x1, x2, width, factor, multiple)
    top, bottom, rows = _span(y1, y2, height, factor, multiple)
    size = (
        min(rows, max(1, int(round((bottom - top) * factor)))),  # noqa: RUF046  # a float in TorchScript
        min(columns, max(1, int(round((right - left) * factor)))),  # noqa: RUF046
    )
    down, across = size[0] / (bottom - top), size[1] / (right - left)
    moved = ((x1 - left) * across, (y1 - top) * down, (x2 - left) * across, (y2 - top) * down)
    return Cut((left, top, right, bottom), size, (rows, columns), moved)


def _span(
    low: float,
    high: float,
    end: int,
    factor: float,
    multiple: int,
    margin: int = MARGIN,
    rounding: float = ROUNDING,
) -> tuple[int, int, int]:
    """First and last pixel of a window along one side of a picture of ``end`` pixels, and the pixels of the window."""
    wanted = min((high - low) * factor + 2 * margin, end * factor)
    length = multiple * max(1, math.ceil((wanted - rounding) / multiple))
    half = length / factor / 2
    first = min(max((low + high) / 2 - half, 0.0), max(end - 2 * half, 0.0))
    begin = min(math.floor(first), end - 1)
    return begin, max(begin + 1, min(end, math.ceil(first + 2 * half))), length
