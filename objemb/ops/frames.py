"""Boxes that were made in another frame of a photo: on the file's pixels before EXIF turned them, or on a smaller copy.

A frame is a ``(height, width)``. Sizes alone have to say how one frame becomes the other. They cannot tell a photo that
is mirrored or upside down (EXIF orientations 2, 3 and 4), nor a turned square one, from the upright photo: boxes for
such a frame of the same size are taken as boxes of the upright photo, as COCO and its tools mean them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from objemb.structures import SIDEWAYS, Photo
from objemb.types import Float64Array, Uint8Array

#: What the EXIF orientations do that swap height and width; left and right are quarters of a turn.
TRANSPOSED, RIGHT, TRANSVERSE, LEFT = SIDEWAYS
#: Sides of a copy are whole pixels, so its shape may differ from the original's by this much, and by one pixel.
SHAPE_TOLERANCE = 0.05


@dataclass(frozen=True)
class Frame:
    """How coordinates of one frame become those of a photo.

    Attributes:
        size: ``(height, width)`` of the frame.
        target: That of the photo.
        orientation: The EXIF orientation, 1 or one of :data:`SIDEWAYS`, that turns the frame as the photo is.
    """

    size: tuple[int, int]
    target: tuple[int, int]
    orientation: int = 1

    def boxes(self, edges: Float64Array) -> Float64Array:
        """Edges float64 ``(N, 4)`` in pixels of the frame as edges in pixels of the photo."""
        height, width = self.size
        x1, y1, x2, y2 = edges.T
        columns = {
            1: (x1, y1, x2, y2),
            TRANSPOSED: (y1, x1, y2, x2),
            RIGHT: (height - y2, x1, height - y1, x2),
            TRANSVERSE: (height - y2, width - x2, height - y1, width - x1),
            LEFT: (y1, width - x2, y2, width - x1),
        }
        height, width = (height, width) if self.orientation == 1 else (width, height)
        x, y = self.target[1] / width, self.target[0] / height
        return np.stack(columns[self.orientation], axis=1) * (x, y, x, y)

    def masks(self, masks: Uint8Array) -> Uint8Array:
        """Masks uint8 ``(N, h, w)`` that are stretched over boxes of the frame, stretched over them in the photo."""
        if self.orientation == 1:
            return masks
        flips = {TRANSPOSED: (), RIGHT: (2,), TRANSVERSE: (1, 2), LEFT: (1,)}
        return np.ascontiguousarray(np.flip(masks.swapaxes(1, 2), flips[self.orientation]))


def frame_in(photo: Photo, size: tuple[int, int]) -> Frame:
    """The frame of ``size`` ``(height, width)`` that boxes of a photo were made in.

    Raises:
        ValueError: The sizes do not say how this frame lies in the photo, or say it in two ways.
    """
    if size == photo.size:
        return Frame(size, photo.size)
    turned = (size[1], size[0])
    sideways = photo.orientation in SIDEWAYS
    if sideways and turned == photo.size:
        return Frame(size, photo.size, photo.orientation)
    scaled, both = _same_shape(size, photo.size), sideways and _same_shape(turned, photo.size)
    if scaled == both:
        why = ", which may have been turned or not" if scaled else ""
        raise ValueError(
            f"expected a photo of {size[1]} x {size[0]} pixels, rotated or scaled, "
            f"found {photo.size[1]} x {photo.size[0]}{why}"
        )
    return Frame(size, photo.size, photo.orientation if both else 1)


def _same_shape(first: tuple[int, int], second: tuple[int, int]) -> bool:
    """Whether one is a scaled copy of the other, whose sides were rounded to whole pixels in any direction."""
    (h, w), (height, width) = sorted((first, second), key=lambda size: size[0] * size[1])
    one_factor = max((w - 1) * height, (h - 1) * width) < min((w + 1) * height, (h + 1) * width)
    return one_factor and abs(w * height - h * width) <= SHAPE_TOLERANCE * h * width
