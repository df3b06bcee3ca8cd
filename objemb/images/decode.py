"""Decodes one file into a Photo; any file that cannot be decoded raises ``UnreadableImageError``."""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

from PIL import Image, ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.TiffImagePlugin import TiffImageFile

from objemb import checks
from objemb.images.decoders import DECODERS, MAX_SCANS, Tiff, pixel_chunks, scans_of, webp_size
from objemb.images.kinds import kind_of, open_at_once
from objemb.images.names import printable
from objemb.images.pixels import rgb_pixels
from objemb.structures import SIDEWAYS, Photo, Scalar
from objemb.types import Uint8Array

#: Default of the maximum number of pixels of an image.
MAX_PIXELS = 100_000_000
#: A file may have this many bytes per allowed pixel (four channels of 16 bits), plus a fixed number.
BYTES_PER_PIXEL = 8
BYTES_BESIDE_PIXELS = 64 * 2**20
#: Piece size in bytes for reading a file that grows while it is read.
CHUNK = 2**20
#: Bytes of memory per pixel while decoding: four of Pillow's image, three of the photo, one of an intermediate band.
BYTES_IN_MEMORY = 8
#: Maximum number of characters of a reason.
REASON_LENGTH = 200


#: Modules of Pillow, for the warnings filter.
PILLOW = re.compile(r"PIL\.")

ORIENTATION = 0x0112
#: The transposition that undoes each EXIF orientation.
UPRIGHT: Mapping[int, Image.Transpose] = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)


class UnreadableImageError(checks.ObjembError):
    """An image cannot be read.

    Attributes:
        reason: The reason in a few words, without the name of the file.
    """

    def __init__(self, reason: str, name: str = "image") -> None:
        self.reason = " ".join(reason.split())[:REASON_LENGTH]
        super().__init__(f"{name}: {self.reason}")


def read_photo(
    source: str | Path | bytes,
    *,
    id: str | None = None,
    metadata: Mapping[str, Scalar] = MappingProxyType({}),
    side: int | None = None,
    part: float | None = None,
    max_pixels: int = MAX_PIXELS,
    admit: Callable[[int], None] = lambda most: None,
) -> Photo:
    """Decode one image: JPEG, PNG, WebP, BMP or TIFF, recognised by content rather than by name.

    The first frame is read, rotated according to its EXIF orientation (damaged EXIF is ignored), and converted to RGB
    by :func:`objemb.images.pixels.rgb_pixels`.

    Pillow's warnings are ignored once objemb is imported: a damaged tag is not worth reporting, and must not make a
    photo unreadable under ``-W error``. (A filter for Pillow's modules is added unless there is one; suppressing
    warnings around each call would not be thread-safe.)

    Args:
        source: A path, or the bytes of a file.
        id: The photo's id; its path by default.
        metadata: Metadata of the photo, by column.
        side: The longest side in pixels at which the photo is used. JPEG files are then decoded at 1/2, 1/4 or 1/8 of
            their size, but never below twice ``side``, which is faster than decoding them in full; other formats are
            decoded in full size. The factor of two is needed because reduced decoding drops the high frequencies of
            each block, which would change vectors noticeably without further averaging.
        part: The longest side, in original pixels, of the smallest part that is used on its own; this part then keeps
            twice ``side``. The whole photo by default.
        max_pixels: Maximum number of pixels; larger images are refused before they are decoded. (Pillow refuses WebP
            images above twice ``PIL.Image.MAX_IMAGE_PIXELS``, 179 million pixels, in any case.) The file itself may
            have at most 8 bytes per allowed pixel plus 64 MiB.
        admit: Called before the pixels are decoded with the maximum number of bytes of memory needed; may block.

    Returns:
        The photo; ``size`` is that of the upright original, even if the decoder scaled it down.

    Raises:
        UnreadableImageError: The image cannot be read; see its ``reason``.
        ValueError: ``side``, ``part`` or ``max_pixels`` is not above 0.
    """
    for name, value in {"max_pixels": max_pixels, "side": side, "part": part}.items():
        if value is not None:
            checks.positive(name, value)
    if id is None:
        id = "image" if isinstance(source, bytes) else printable(Path(source).as_posix())
    try:
        data = source if isinstance(source, bytes) else _file_bytes(source, most_bytes(max_pixels))
        pixels, size, orientation = _decode(data, side, part, max_pixels, admit)
    except _Refusal as refusal:
        raise UnreadableImageError(str(refusal), id) from refusal.__cause__
    path = None if isinstance(source, bytes) else os.path.abspath(source)
    return Photo(id=id, pixels=pixels, size=size, metadata=metadata, path=path, orientation=orientation)


def photo_bytes(path: str | Path, *, id: str, max_pixels: int = MAX_PIXELS) -> bytes:
    """The encoded photo in a file, as :func:`read_photo` reads it, to be decoded later.

    Raises:
        UnreadableImageError: The file cannot be read, or has more bytes than a photo of ``max_pixels`` can need.
    """
    try:
        return _file_bytes(path, most_bytes(max_pixels))
    except _Refusal as refusal:
        raise UnreadableImageError(str(refusal), id) from refusal.__cause__


class _Refusal(Exception):
    """Carries a reason to :func:`read_photo`, which adds the name."""


def most_bytes(max_pixels: int) -> int:
    """Bytes that a file of an image within the pixel limit may have."""
    return BYTES_PER_PIXEL * max_pixels + BYTES_BESIDE_PIXELS


def _file_bytes(path: str | Path, most: int) -> bytes:
    """The content of a regular file of at most ``most`` bytes. FIFOs and devices cannot block it.

    The file is read rather than mapped, because access to the map of a file that is truncated kills the process.
    """
    try:
        _expect_regular(os.stat(path))  # before it is opened, since opening a device may have effects
        with open(path, "rb", opener=open_at_once) as file:
            status = os.fstat(file.fileno())
            _expect_regular(status)
            # not the limit, since read() allocates the requested size
            data = _expect_bytes(file.read(min(status.st_size, most) + 1))
            while status.st_size < len(data) <= most and (more := file.read(CHUNK)):
                data += more
    except (FileNotFoundError, NotADirectoryError):
        raise _Refusal("file not found") from None
    except PermissionError:
        raise _Refusal("no permission to read the file") from None
    except MemoryError:
        raise _Refusal("cannot read the file: not enough memory") from None
    except (OSError, ValueError) as error:  # ValueError: not a valid path
        raise _Refusal(f"cannot read the file: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > most:
        raise _Refusal(f"too many bytes: more than the {most:,} that an image within the pixel limit can need")
    return data


def _expect_bytes(data: bytes | None) -> bytes:
    """Check that a non-blocking read returned bytes; on a slow file system it may not."""
    if data is None:
        raise _Refusal("cannot read the file: no data available without waiting")
    return data


def _expect_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise _Refusal("expected a file, found a folder")
    if not stat.S_ISREG(status.st_mode):
        raise _Refusal("expected a regular file, found a device, pipe or socket")


def _decode(
    data: bytes, side: int | None, part: float | None, max_pixels: int, admit: Callable[[int], None]
) -> tuple[Uint8Array, tuple[int, int], int]:
    """Upright pixels uint8 ``(3, h, w)``, upright ``(height, width)`` of the original, and the EXIF orientation."""
    kind = _expect_image(data)
    _ignore_decoder_warnings()
    try:
        if kind == "WebP":
            _expect_size(webp_size(data), max_pixels)  # Pillow reserves the canvas when it opens the file
        if kind == "PNG":
            data = pixel_chunks(data)
        with DECODERS[kind](io.BytesIO(data)) as image:
            original = image.size
            _expect_size(original, max_pixels)
            if kind == "JPEG" and scans_of(data) > MAX_SCANS:
                raise _Refusal(f"too many scans: expected a JPEG of at most {MAX_SCANS}")
            if isinstance(image, Tiff):
                image.prepare(lambda size: _expect_size(size, max_pixels), len(data))
            if side is not None and isinstance(image, JpegImageFile):
                _scale_down(image, side, part)
            admit(BYTES_IN_MEMORY * image.width * image.height)
            return _upright_pixels(image, original)
    except _Refusal:
        raise
    except MemoryError:
        raise _Refusal(f"cannot decode {kind}: not enough memory") from None
    except Exception as error:  # decoders raise almost every kind for damaged files
        raise _Refusal(f"cannot decode {kind}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """The reason for an error of any type raised by a decoder."""
    if isinstance(error, OSError | SyntaxError | ValueError | EOFError) and str(error):
        return str(error)
    return f"damaged ({type(error).__name__}: {error})"


def _expect_image(data: bytes) -> str:
    """The format of a file; raises unless it can be decoded."""
    if not data:
        raise _Refusal("empty file")
    kind = kind_of(data)
    if kind is None or kind not in DECODERS:
        raise _Refusal(f"expected one of {', '.join(DECODERS)}, found {kind or 'no known image'}")
    return kind


def _ignore_decoder_warnings() -> None:
    if ("ignore", None, Warning, PILLOW, 0) not in warnings.filters:
        warnings.filterwarnings("ignore", module=PILLOW.pattern)


def _expect_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise _Refusal(f"expected at least one pixel, found {width} x {height}")
    if width * height > max_pixels:
        raise _Refusal(f"too many pixels: expected at most {max_pixels:,}, found {width} x {height}")


def _upright_pixels(image: ImageFile.ImageFile, original: tuple[int, int]) -> tuple[Uint8Array, tuple[int, int], int]:
    """Upright pixels, upright ``(height, width)`` of the original, and the EXIF orientation that was applied;
    ``original`` is its ``(width, height)`` as stored.
    """
    if isinstance(image, TiffImageFile):  # Pillow rotates a TIFF while loading it, and drops the orientation
        orientation = _orientation(image)
        image.load()
        return rgb_pixels(image), (image.height, image.width), orientation
    image.load()
    width, height = original
    orientation = _orientation(image)
    size = (width, height) if orientation in SIDEWAYS else (height, width)
    return rgb_pixels(upright(image)), size, orientation


def upright(image: Image.Image) -> Image.Image:
    """A loaded image rotated according to its EXIF orientation; the same object if it is upright."""
    orientation = 1 if isinstance(image, TiffImageFile) else _orientation(image)
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _scale_down(image: JpegImageFile, side: int, part: float | None) -> None:
    """Set the JPEG decoder's reduction to the largest of 8, 4, 2 that leaves the used part twice ``side`` pixels."""
    longest = max(image.size) if part is None else min(part, max(image.size))
    factor = max((f for f in (8, 4, 2) if longest // f >= 2 * side), default=1)
    image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8. Read after the pixels are loaded, because in a PNG it may come after them."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # the metadata is damaged, not the photo
        return 1
    return value if value in UPRIGHT else 1
