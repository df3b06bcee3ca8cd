"""A decoded image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from objemb import checks
from objemb.structures.fields import Scalar, as_array, checked_id, checked_size, frozen_metadata
from objemb.structures.regions import Regions
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

    def interleaved(self) -> Uint8Array:
        """The pixels as uint8 ``(h, w, 3)``, contiguous, as graphs and Pillow take them; a copy."""
        turned = np.empty((*self.pixels.shape[1:], 3), np.uint8)
        for channel, plane in enumerate(self.pixels):  # up to fifteen times as fast as copying the transposed array
            turned[..., channel] = plane
        return turned

    def part(self, box: Regions) -> Photo:
        """The pixels under one box as a photo of their own, whose memory is that of this one.

        Edges go to the nearest pixel of what was decoded, as those of the regions that the extractor ``crop`` cuts out;
        at least one pixel is left.
        """
        height, width = self.pixels.shape[1:]
        y, x = self.scale
        ends = np.array([width, height, width, height], np.float32)
        edges = np.clip(box.boxes[0] * np.array([x, y, x, y], np.float32), 0, ends)
        rounded = np.floor(edges + np.float32(0.5)).astype(np.int64)
        x1, y1 = np.minimum(rounded[:2], [width - 1, height - 1]).tolist()
        x2, y2 = np.maximum(rounded[2:], [x1 + 1, y1 + 1]).tolist()
        size = (max(1, round((y2 - y1) / y)), max(1, round((x2 - x1) / x)))
        return Photo(self.id, self.pixels[:, y1:y2, x1:x2], size, self.metadata)
