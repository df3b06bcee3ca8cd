"""A part of a photo as a photo."""

from __future__ import annotations

import math

from objemb.structures import Photo, Regions


def cut_out(photo: Photo, box: Regions) -> Photo:
    """The pixels under one box as a photo, at least one pixel, whole pixels of what was decoded."""
    scale_y, scale_x = photo.scale
    height, width = photo.pixels.shape[1:]
    x1, y1, x2, y2 = box.boxes[0].tolist()
    left, top = min(int(x1 * scale_x), width - 1), min(int(y1 * scale_y), height - 1)
    right, bottom = (
        min(max(math.ceil(x2 * scale_x), left + 1), width),
        min(max(math.ceil(y2 * scale_y), top + 1), height),
    )
    size = (max(1, round((bottom - top) / scale_y)), max(1, round((right - left) / scale_x)))
    return Photo(photo.id, photo.pixels[:, top:bottom, left:right], size, photo.metadata)
