"""Converts any pixel mode that a decoder returns to RGB bytes."""

from __future__ import annotations

import numpy as np
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile

from objemb.types import AnyArray, FloatArray, Uint8Array

#: Modes with more than eight bits of grey.
DEEP_GREY = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
#: Candidates for the value of white in images that do not define it: the first one that no value exceeds.
INTEGER_WHITES = (65535.0,)
UNSIGNED_WHITES = (65535.0, 4294967295.0)
FLOAT_WHITES = (1.0, 255.0, 65535.0)
#: TIFF tags, by their names in the TIFF 6.0 specification.
BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
WHITE_IS_ZERO = 0
UNSIGNED = 1
#: Weights of red, green and blue in luma (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


def rgb_pixels(image: Image.Image) -> Uint8Array:
    """Pixels of a loaded image as uint8 ``(3, h, w)``, RGB, contiguous, not shared with the image.

    - Transparent images (alpha channel, palette entry or transparent colour) are composed with white. A BMP in which
      every pixel is transparent is taken as opaque, because the format does not define the fourth byte, and programs
      leave it zero.
    - CMYK is read with Adobe's inversion for JPEG (by Pillow). Colour profiles are not applied in any mode. LAB is
      converted to sRGB.
    - 16-bit grey is divided by its white (65535, or 4095 for 12-bit TIFF). Integers and floats without a defined white
      are divided by the first of :data:`INTEGER_WHITES`, :data:`UNSIGNED_WHITES` (TIFF of unsigned 32 bits) or
      :data:`FLOAT_WHITES` that none of them exceeds. If there is none, or if values are negative, black is the smallest
      and white the largest value. NaN is black.

    Raises:
        ValueError: The image has no finite value.
    """
    if image.mode in DEEP_GREY:
        return _grey_planes(_deep_grey(image))
    if image.has_transparency_data and not _is_opaque_bmp(image):
        return _colour_planes(_on_white(image))
    if image.mode == "L":
        return _grey_planes(np.asarray(image))
    return _colour_planes(image if image.mode == "RGB" else image.convert("RGB"))


def _is_opaque_bmp(image: Image.Image) -> bool:
    return isinstance(image, BmpImageFile) and image.mode == "RGBA" and image.getchannel("A").getextrema() == (0, 0)


def _colour_planes(image: Image.Image) -> Uint8Array:
    """Planes of an RGB image, band by band: five times as fast as interleaved bytes that are transposed afterwards."""
    planes = np.empty((3, image.height * image.width), np.uint8)
    for plane, band in zip(planes, "RGB", strict=True):
        plane[:] = np.frombuffer(image.tobytes("raw", band), np.uint8)
    return planes.reshape(3, image.height, image.width)


def _grey_planes(grey: Uint8Array) -> Uint8Array:
    return np.repeat(grey[None], 3, axis=0)


def _on_white(image: Image.Image) -> Image.Image:
    layer = image.convert("RGBA")
    page = Image.new("RGB", image.size, (255, 255, 255))
    page.paste(layer, mask=layer)
    return page


def _deep_grey(image: Image.Image) -> Uint8Array:
    """Convert grey of more than eight bits to uint8 ``(h, w)``."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})
    if image.mode == "I" and tags.get(BITS_PER_SAMPLE) == (32,) and tags.get(SAMPLE_FORMAT, (UNSIGNED,)) == (UNSIGNED,):
        values = values.view(np.uint32)  # Pillow has no mode for unsigned 32 bits
        low, high = _range(values, UNSIGNED_WHITES)
    elif image.mode in ("I", "F"):
        low, high = _range(values, INTEGER_WHITES if image.mode == "I" else FLOAT_WHITES)
    else:
        low, high = 0.0, _sixteen_bit_white(image)
    grey = scaled(values, low, high)
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey  # Pillow inverts eight bits only
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return grey


def _sixteen_bit_white(image: Image.Image) -> float:
    """65535, or less for a TIFF of 12 bits, which Pillow unpacks without scaling."""
    bits = getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (16,))
    return float(2 ** bits[0] - 1)


def _range(values: AnyArray, whites: tuple[float, ...]) -> tuple[float, float]:
    """The values that become black and white."""
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if finite.size == 0:
        raise ValueError("expected finite pixel values, found none")
    low, high = float(finite.min()), float(finite.max())
    fitting = [white for white in whites if low >= 0 and high <= white]
    return (0.0, fitting[0]) if fitting else (low, high)


def scaled(values: AnyArray, low: float, high: float) -> Uint8Array:
    """Scale ``low`` to 0 and ``high`` to 255, rounded; NaN becomes 0, infinite values become 0 or 255."""
    # float32 is exact enough for 16 bits, but the difference of two floats may overflow it
    wide: FloatArray = values.astype(np.float32 if values.dtype.itemsize == 2 else np.float64)
    np.nan_to_num(wide, copy=False, nan=low, posinf=high, neginf=low)
    wide -= low
    wide *= 255.0 / (high - low) if high > low else 0.0
    return np.rint(wide, out=wide).astype(np.uint8)
