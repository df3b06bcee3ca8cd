"""A part of a photo as a photo."""

from __future__ import annotations

from objemb.ops.boxes import scale, windows
from objemb.structures import Photo, Regions


def cut_out(photo: Photo, box: Regions) -> Photo:
    """The pixels under one box as a photo.

    Edges go to the nearest pixel of what was decoded, as those of the regions that the extractor ``crop`` cuts out; at
    least one pixel is left.
    """
    height, width = photo.pixels.shape[1:]
    x1, y1, x2, y2 = windows(scale(box.boxes[:1].cpu(), photo.scale), (height, width))[0].tolist()
    scale_y, scale_x = photo.scale
    size = (max(1, round((y2 - y1) / scale_y)), max(1, round((x2 - x1) / scale_x)))
    return Photo(photo.id, photo.pixels[:, y1:y2, x1:x2], size, photo.metadata)
