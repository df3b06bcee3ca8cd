"""Images and boxes as users give them, converted to photos and regions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias, cast

import numpy as np
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from objemb.images.decode import MAX_PIXELS, read_photo, upright
from objemb.images.pixels import FLOAT_WHITES, INTEGER_WHITES, rgb_pixels, scaled
from objemb.structures import BOX_TOLERANCE, Photo, Regions, are_fractions
from objemb.structures.fields import as_array, is_tensor
from objemb.types import AnyArray, Float32Array, Uint8Array

if TYPE_CHECKING:
    from torch import Tensor

#: A path, encoded bytes, an open binary file, a PIL image, an array (H, W, 3), a tensor (3, H, W), a decoded photo, or
#: one that is decoded elsewhere.
ImageLike: TypeAlias = "str | Path | bytes | BinaryIO | Image.Image | np.ndarray | Tensor | Photo | EncodedPhoto"
#: PIL's modes for 1 to 4 channels.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
#: Boxes of one image: rows of x1, y1, x2, y2 in original pixels.
BoxesLike: TypeAlias = "Regions | Tensor | np.ndarray | Sequence[Sequence[float]]"


class EncodedPhoto(ABC):
    """An encoded photo that is decoded in another place, such as a process with a limit of time."""

    @abstractmethod
    def decoded(self, side: int | None, part: float | None, max_pixels: int) -> Photo:
        """The photo; arguments and errors are those of :func:`objemb.images.decode.read_photo`."""


@dataclass(frozen=True, eq=False)
class View:
    """A view of an object, or a counter-example: a photo with boxes.

    Attributes:
        image: A path, bytes, a PIL image, an array ``(H, W, 3)`` ..., as for ``EmbeddingModel.describe``.
        boxes: The objects in it: rows of x1, y1, x2, y2 in original pixels, or one of the words ``whole``, ``detector``
            and ``both``. None for the default of the combiner, and for all regions of a counter-example.
    """

    image: ImageLike
    boxes: BoxesLike | str | None = None


def as_photo(
    image: ImageLike, side: int | None = None, part: float | None = None, max_pixels: int = MAX_PIXELS
) -> Photo:
    """Convert an image in any supported form to a decoded photo.

    Args:
        image: A path; the bytes of an image file, or a file opened in binary mode; a PIL image (its EXIF orientation is
            applied); a NumPy array ``(H, W, 3)``, RGB, as PIL returns it; a tensor ``(3, H, W)``, RGB, as torchvision
            returns it; a Photo. Arrays and tensors may also be grey (two dimensions, or one channel) or have an alpha
            channel (2 or 4 channels), which is composed with white. Their type is uint8, bool, uint16 (white is 65535)
            or float; floats are divided by the first of 1, 255 and 65535 that none of them exceeds. An
            :class:`EncodedPhoto` decodes itself.
        side: The longest side in pixels at which the photo is used, as in :func:`objemb.images.read_photo`: JPEG files
            are decoded at a reduced size, also those that Pillow has opened, but not decoded yet.
        part: The longest side, in original pixels, of the smallest part that is used on its own.
        max_pixels: Maximum number of pixels of a file; larger ones are refused before they are decoded.

    Raises:
        TypeError, ValueError: The type, dtype or shape is not supported.
        FileNotFoundError: There is no file at the path.
        UnreadableImageError: The file cannot be decoded.
    """
    if isinstance(image, Photo):
        return image
    if isinstance(image, EncodedPhoto):
        return image.decoded(side, part, max_pixels)
    image = as_encoded(image)
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


def as_encoded(image: ImageLike) -> ImageLike:
    """The bytes of a bytes-like object or an open file; any other image unchanged. A file is read from its start, and
    its position is restored.

    Raises:
        TypeError: The file was opened in text mode.
    """
    if isinstance(image, (bytearray, memoryview)):
        return bytes(image)
    if isinstance(image, (Image.Image, np.ndarray)) or not hasattr(image, "read"):
        return image
    file = cast(BinaryIO, image)
    position = file.tell() if file.seekable() else None
    if position is not None:
        file.seek(0)
    data = file.read()
    if position is not None:
        file.seek(position)
    if not isinstance(data, bytes):
        raise TypeError(f"image: expected a file opened in binary mode, found one that gives {type(data).__name__}")
    return data


def as_regions(boxes: BoxesLike, size: tuple[int, int]) -> Regions:
    """Convert boxes to regions of an image of ``(height, width)``, and check that they lie inside it.

    Raises:
        ValueError: Boxes are not finite x1, y1, x2, y2, exceed the image, or are fractions of its size, from 0 to 1.
    """
    if isinstance(boxes, Regions):
        if boxes.size != size:
            raise ValueError(f"boxes: expected regions of an image of (height, width) {size}, found {boxes.size}")
        return boxes
    rows = _rows(boxes)
    _expect_pixels(rows, size)
    return Regions(rows, size)


def as_view(name: str, value: View | ImageLike) -> View:
    """A view from a view or an image without boxes.

    Args:
        name: Name of the argument, for the message.
        value: The view or image.

    Raises:
        TypeError: The value is a tuple or a list, for instance of an image and a box.
    """
    if isinstance(value, (tuple, list)):
        raise TypeError(f"{name}: expected images or objemb.View(image, boxes), found {type(value).__name__}")
    return value if isinstance(value, View) else View(value)


def _rows(boxes: Tensor | np.ndarray | Sequence[Sequence[float]]) -> Float32Array:
    """float32 ``(N, 4)``."""
    expected = "boxes: expected rows of x1, y1, x2, y2 such as [(40, 60, 180, 220)]"
    if isinstance(boxes, np.ndarray) or is_tensor(boxes):
        if boxes.ndim != 2 or boxes.shape[1] != 4:
            if 0 in boxes.shape:
                return np.zeros((0, 4), np.float32)
            raise ValueError(f"{expected}, found {type(boxes).__name__} of shape {tuple(boxes.shape)}")
        if isinstance(boxes, np.ndarray) and boxes.dtype.kind not in "iuf":
            raise ValueError(f"{expected}, found an array of {boxes.dtype}")
        return as_array("boxes", boxes).astype(np.float32)
    if isinstance(boxes, (str, bytes)) or not isinstance(boxes, Iterable):
        raise ValueError(f"{expected}, found {boxes!r}")
    rows = []
    for box in boxes:
        try:
            values = [float(v) for v in box]
        except (TypeError, ValueError, OverflowError):
            values = []
        if len(values) != 4 or isinstance(box, (str, bytes)):
            raise ValueError(f"{expected}, found {box!r}")
        rows.append(values)
    with np.errstate(over="ignore"):  # what exceeds float32 becomes infinite and is refused
        return np.array(rows, np.float32).reshape(-1, 4)


def _expect_pixels(rows: Float32Array, size: tuple[int, int]) -> None:
    """Raise ``ValueError`` for the first box that is not inside an image of ``(height, width)`` in pixels; the message
    says if it would be in another format."""
    height, width = size
    limit = np.array([width, height, width, height], np.float32) + np.float32(BOX_TOLERANCE)
    inside = (rows >= -BOX_TOLERANCE) & (rows <= limit)  # False for NaN
    good = inside.all(1) & (rows[:, 0] <= rows[:, 2]) & (rows[:, 1] <= rows[:, 3])
    if not good.all():
        found = rows[int((~good).argmax())].tolist()
        x1, y1, x2, y2 = found
        corners = (x1, y1, x1 + x2, y1 + y2)
        could_be = min(found) >= 0 and corners[2] <= width + 1 and corners[3] <= height + 1
        raise ValueError(
            "boxes: expected finite x1, y1, x2, y2 in pixels with x1 <= x2 and y1 <= y2, inside the image of "
            f"{width} x {height}, found {_shown(found)}"
            + (f"; as x, y, width, height it would be {_shown(corners)}" if could_be else "")
        )
    fractions = [row for row in rows.tolist() if are_fractions(row, size)]
    if fractions:
        x1, y1, x2, y2 = fractions[0]
        raise ValueError(
            f"boxes: expected x1, y1, x2, y2 in pixels of the image of {width} x {height}, found "
            f"{_shown(fractions[0])}; as fractions of its size it would be "
            f"{_shown((x1 * width, y1 * height, x2 * width, y2 * height))}"
        )


def _shown(box: Sequence[float]) -> str:
    return f"({', '.join(f'{v:g}' for v in box)})"


def _undecoded(image: JpegImageFile) -> bytes | None:
    """The content of a JPEG that was opened by Pillow and not used since, so that it is decoded like its path."""
    if image.fp is None or not image.tile or image.decoderconfig or image.tell() != 0:
        return None
    position = image.fp.tell()
    image.fp.seek(0)
    data = image.fp.read()
    image.fp.seek(position)
    return data


def _picture(image: Image.Image) -> Uint8Array:
    """The upright pixels of a PIL image, uint8 ``(3, H, W)``."""
    image.load()
    return rgb_pixels(upright(image))


def _pixels(image: object) -> Uint8Array:
    """The pixels of an array or a tensor, uint8 ``(3, H, W)``."""
    if is_tensor(image):
        values, order = as_array("image", image), "a tensor (3, H, W)"
        values = np.moveaxis(values, 0, 2) if values.ndim == 3 else values
    elif isinstance(image, np.ndarray):
        values, order = image, "an array (H, W, 3)"
    else:
        raise TypeError(
            "image: expected a path, bytes, an open binary file, a PIL image, an array (H, W, 3), a tensor (3, H, W) "
            f"or a Photo, found {type(image).__name__}"
        )
    found = f"found {image.dtype} {tuple(image.shape)}"
    if values.ndim == 4:
        raise ValueError(f"image: expected {order}, {found}; model.stream accepts several")
    if values.ndim == 2:
        values = values[:, :, None]
    if values.ndim != 3 or values.shape[2] not in MODES or 0 in values.shape:
        raise ValueError(f"image: expected {order}, or the same with grey or alpha channels, {found}")
    pixels = np.ascontiguousarray(_as_bytes(values, found))
    if values.shape[2] == 3:
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))
    return rgb_pixels(Image.fromarray(pixels[:, :, 0] if values.shape[2] == 1 else pixels, MODES[values.shape[2]]))


def _as_bytes(values: AnyArray, found: str) -> Uint8Array:
    """Convert pixels of any supported type to uint8."""
    if values.dtype == np.uint8:
        return values
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if values.dtype == np.uint16:
        return scaled(values, 0.0, INTEGER_WHITES[0])
    if values.dtype.kind != "f":
        raise ValueError(f"image: expected uint8, uint16, bool or floats, {found}")
    least, most = float(values.min()), float(values.max())
    white = next((white for white in FLOAT_WHITES if least >= 0 and most <= white), None)
    if white is None:
        raise ValueError(
            f"image: expected floats from 0 to 1, 255 or 65535, found {least:g} to {most:g}; "
            "pass pixels that have not been normalised for a network"
        )
    return scaled(values, 0.0, white)
