"""A decoded image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from objemb import checks
from objemb.structures.fields import Scalar, as_array, checked_id, checked_size, frozen_metadata
from objemb.types import Uint8Array

#: EXIF orientations that swap height and width.
SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded image.

    Attributes:
        id: The id of the image in an index, usually its path.
        pixels: uint8 ``(3, h, w)``, RGB, EXIF-corrected; smaller than the original if the decoder scaled it down.
            (Bytes rather than floats keep photos in the decoding queue four times smaller; networks divide by 255.)
            May be given as a tensor, which shares its memory.
        size: ``(height, width)`` of the EXIF-corrected *original*: the frame of all boxes.
        metadata: Metadata of the image from its source, by column.
        path: Absolute path of its file, None for an image that is not from a file. Stored boxes are looked up by it.
        orientation: EXIF orientation, 1 to 8, that was applied to the file's pixels; 1 for none.
    """

    id: str
    pixels: Uint8Array
    size: tuple[int, int]
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    path: str | None = None
    orientation: int = 1

    def __post_init__(self) -> None:
        checked_id("Photo.id", self.id)
        object.__setattr__(self, "pixels", as_array("Photo.pixels", self.pixels))
        checks.shape("Photo.pixels", self.pixels, (3, None, None))
        if self.pixels.dtype != np.uint8:
            raise TypeError(f"Photo.pixels: expected dtype uint8, found {self.pixels.dtype}")
        if 0 in self.pixels.shape:
            raise ValueError(f"Photo.pixels: expected at least one pixel, found shape {self.pixels.shape}")
        object.__setattr__(self, "size", checked_size("Photo.size", self.size))
        object.__setattr__(self, "metadata", frozen_metadata("Photo.metadata", self.metadata))

    @property
    def scale(self) -> tuple[float, float]:
        """``(y, x)`` factors from original pixels to decoded pixels; 1.0 if the decoder did not scale."""
        return self.pixels.shape[1] / self.size[0], self.pixels.shape[2] / self.size[1]
