"""Windows: parts of a photo, resized so that an object has the size on which a head was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from objemb.ops.batches import batched, group_equal
from objemb.ops.boxes import scale
from objemb.ops.images import resize
from objemb.ops.tensors import as_tensor
from objemb.ops.windows import Cut, cut
from objemb.structures import Photo, Regions

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
    cuts = [
        cut((owners[n].pixels.shape[1], owners[n].pixels.shape[2]), boxes[n].tolist(), side, multiple) for n in numbers
    ]
    for group in group_equal(c.shape for c in cuts):
        for some in batched(group, BATCH):
            pixels = torch.stack([_window(owners[numbers[i]], cuts[i], colour) for i in some])
            yield Windows([numbers[i] for i in some], pixels, torch.tensor([cuts[i].box for i in some]))


def window_shapes(
    photo: Photo, regions: Regions, chosen: Sequence[bool], side: float, multiple: int = 16
) -> list[tuple[int, int]]:
    """``(height, width)`` of the windows of :func:`windows_around`, for the boxes of one photo in order."""
    boxes = scale(as_tensor(regions.boxes), photo.scale).tolist()
    picture = photo.pixels.shape[1], photo.pixels.shape[2]
    return [cut(picture, box, side, multiple).shape for box, wanted in zip(boxes, chosen, strict=True) if wanted]


def _window(photo: Photo, of_box: Cut, colour: Tensor) -> Tensor:
    left, top, right, bottom = of_box.part
    part = resize(as_tensor(photo.pixels)[:, top:bottom, left:right].contiguous(), of_box.size)
    if of_box.size == of_box.shape:
        return part.float() / 255
    window = colour.to(part.device).float()[:, None, None].repeat(1, *of_box.shape)
    window[:, : of_box.size[0], : of_box.size[1]] = part.float() / 255
    return window
