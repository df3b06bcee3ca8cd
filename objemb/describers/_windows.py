"""Windows of photos: their parts, resized so that an object has the size on which a head was trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor

from objemb.ops.boxes import scale
from objemb.ops.images import resize
from objemb.ops.tensors import as_tensor
from objemb.ops.windows import Cut, Windows, windows_of
from objemb.structures import Photo, Regions


def windows_around(
    photos: Sequence[Photo],
    regions: Sequence[Regions],
    chosen: Sequence[bool],
    side: float,
    colour: Tensor,
    multiple: int = 16,
) -> Iterator[Windows]:
    """Windows of photos, float32 RGB, 0 to 1, see :func:`objemb.ops.windows.windows_of`.

    They are cut from the decoded pixels, which may be more than those of a detector's input, and include context from
    the photo around the box. Beyond the edge of the photo, ``colour`` fills the window at the right and at the bottom.

    Args:
        photos: The photos.
        regions: The boxes of each photo, in original pixels.
        chosen, side, multiple: As for :func:`objemb.ops.windows.windows_of`.
        colour: float ``(3,)``, RGB, 0 to 1.
    """
    pictures = [as_tensor(photo.pixels) for photo in photos]
    boxes = [scale(as_tensor(r.boxes), photo.scale) for photo, r in zip(photos, regions, strict=True)]
    return windows_of(pictures, boxes, chosen, side, multiple, partial(_window, colour=colour))


def _window(picture: Tensor, of_box: Cut, colour: Tensor) -> Tensor:
    left, top, right, bottom = of_box.part
    part = resize(picture[:, top:bottom, left:right].contiguous(), of_box.size)
    if of_box.size == of_box.shape:
        return part.float() / 255
    window = colour.to(part.device).float()[:, None, None].repeat(1, *of_box.shape)
    window[:, : of_box.size[0], : of_box.size[1]] = part.float() / 255
    return window
