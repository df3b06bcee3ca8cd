"""From files to pixels: finding images, decoding one, and streaming many."""

from __future__ import annotations

from objemb.images.decode import MAX_PIXELS, UnreadableImageError, read_photo
from objemb.images.sources import ImageRef, SkippedImage, find_images
from objemb.images.stream import stream_photos

__all__ = [
    "MAX_PIXELS",
    "ImageRef",
    "SkippedImage",
    "UnreadableImageError",
    "find_images",
    "read_photo",
    "stream_photos",
]
