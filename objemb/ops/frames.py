"""Boxes made in another frame of a photo: in the file's pixels before EXIF rotation, or in a smaller copy.

A frame is a ``(height, width)``. The relation of two frames is inferred from their sizes. These do not distinguish a
photo that is mirrored or upside down (EXIF orientations 2, 3 and 4), or a rotated square one, from the upright photo:
boxes for a frame of the same size are taken as boxes of the upright photo, as in COCO.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from objemb.structures import SIDEWAYS, Photo
from objemb.types import Float64Array, Uint8Array

#: The EXIF orientations that swap height and width; left and right are rotations by 90 degrees.
TRANSPOSED, RIGHT, TRANSVERSE, LEFT = SIDEWAYS
#: Tolerance for the aspect ratio of a copy, whose sides are rounded to pixels, in addition to one pixel.
SHAPE_TOLERANCE = 0.05


@dataclass(frozen=True)
class Frame:
    """The transformation of coordinates from a frame to a photo.

    Attributes:
        size: ``(height, width)`` of the frame.
        target: ``(height, width)`` of the photo.
        orientation: The EXIF orientation from the frame to the photo, 1 or one of :data:`SIDEWAYS`.
    """

    size: tuple[int, int]
    target: tuple[int, int]
    orientation: int = 1

    def boxes(self, edges: Float64Array) -> Float64Array:
        """Edges float64 ``(N, 4)`` in pixels of the frame, converted to pixels of the photo."""
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
        """Masks uint8 ``(N, h, w)``, stretched over boxes of the frame, converted to boxes of the photo."""
        if self.orientation == 1:
            return masks
        flips = {TRANSPOSED: (), RIGHT: (2,), TRANSVERSE: (1, 2), LEFT: (1,)}
        return np.ascontiguousarray(np.flip(masks.swapaxes(1, 2), flips[self.orientation]))


def frame_in(photo: Photo, size: tuple[int, int]) -> Frame:
    """The frame of ``size`` ``(height, width)`` in which boxes of a photo were made.

    Raises:
        ValueError: The sizes do not determine the relation of frame and photo, or allow two.
    """
    if size == photo.size:
        return Frame(size, photo.size)
    turned = (size[1], size[0])
    sideways = photo.orientation in SIDEWAYS
    if sideways and turned == photo.size:
        return Frame(size, photo.size, photo.orientation)
    scaled, both = _same_shape(size, photo.size), sideways and _same_shape(turned, photo.size)
    if scaled == both:
        why = ", which may have been rotated or not" if scaled else ""
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
