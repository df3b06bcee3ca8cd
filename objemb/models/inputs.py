"""What users hand in becomes a Photo and Regions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from torch import Tensor

from objemb import checks
from objemb.images.decode import MAX_PIXELS, read_photo, upright
from objemb.images.pixels import rgb_pixels
from objemb.structures import Photo, Regions

#: A path, encoded bytes, a PIL image, a uint8 array (H, W, 3), a uint8 tensor (3, H, W), or a decoded photo.
ImageLike: TypeAlias = str | Path | bytes | Image.Image | np.ndarray | Tensor | Photo
#: Boxes of one image: rows of x1, y1, x2, y2 in original pixels.
BoxesLike: TypeAlias = Regions | Tensor | Sequence[Sequence[float]]


def as_photo(
    image: ImageLike, side: int | None = None, part: float | None = None, max_pixels: int = MAX_PIXELS
) -> Photo:
    """A decoded photo from anything that is an image.

    Args:
        image: A path; the bytes of an image file; a PIL image (its EXIF orientation is applied); a NumPy array, uint8
            ``(H, W, 3)`` RGB as PIL gives it; a tensor, uint8 ``(3, H, W)`` RGB as torchvision gives it; a Photo.
        side: The longest side in pixels at which the photo is looked at, as in :func:`objemb.images.read_photo`: JPEG
            files are decoded smaller, and so are JPEGs that Pillow has opened and not decoded yet.
        part: The longest side in original pixels of the least part that is looked at by itself.
        max_pixels: A larger file is refused before it is decoded.

    Raises:
        TypeError, ValueError: Another type, dtype or shape.
        UnreadableImageError: The file cannot be decoded.
    """
    if isinstance(image, Photo):
        return image
    if isinstance(image, bytes):
        return read_photo(image, id="image", side=side, part=part, max_pixels=max_pixels)
    if isinstance(image, (str, Path)):
        if not Path(image).exists():
            raise FileNotFoundError(f"image: expected a file, found none at {image}")
        return read_photo(image, side=side, part=part, max_pixels=max_pixels)
    if isinstance(image, JpegImageFile) and (data := _undecoded(image)) is not None:
        return read_photo(data, id="image", side=side, part=part, max_pixels=max_pixels)
    pixels = _picture(image) if isinstance(image, Image.Image) else _pixels(image)
    return Photo("image", pixels, (int(pixels.shape[1]), int(pixels.shape[2])))


def as_regions(boxes: BoxesLike, size: tuple[int, int]) -> Regions:
    """Boxes of an image of ``(height, width)``, checked to lie in it."""
    if isinstance(boxes, Regions):
        if boxes.size != size:
            raise ValueError(f"boxes: expected regions of an image of (height, width) {size}, found {boxes.size}")
        return boxes
    rows = boxes if isinstance(boxes, Tensor) else [_four(box) for box in boxes]
    return Regions(torch.as_tensor(rows, dtype=torch.float32), size)


def _four(box: Sequence[float]) -> list[float]:
    if isinstance(box, (str, int, float)) or len(box) != 4:
        raise ValueError(f"boxes: expected rows of x1, y1, x2, y2, found {box!r}")
    return [float(v) for v in box]


def _undecoded(image: JpegImageFile) -> bytes | None:
    """The file behind a JPEG that was opened and not touched since, so that it gives the same pixels as its path."""
    if image.fp is None or not image.tile or image.decoderconfig or image.tell() != 0:
        return None
    position = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(position)
    return data


def _picture(image: Image.Image) -> Tensor:
    """uint8 ``(3, H, W)`` of a PIL image, upright."""
    image.load()
    return rgb_pixels(upright(image))


def _pixels(image: object) -> Tensor:
    """uint8 ``(3, H, W)`` from an array or a tensor."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image: expected a uint8 array (H, W, 3), found {image.dtype} {image.shape}")
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    if isinstance(image, Tensor):
        if image.dtype != torch.uint8:
            raise ValueError(f"image: expected a uint8 tensor (3, H, W), found dtype {image.dtype}")
        return checks.shape("image", image, (3, None, None)).contiguous()
    raise TypeError(
        "image: expected a path, bytes, a PIL image, an array (H, W, 3), a tensor (3, H, W) or a Photo, "
        f"found {type(image).__name__}"
    )
