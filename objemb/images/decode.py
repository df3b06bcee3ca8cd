"""Decodes one file into a Photo; any malformed file raises ``UnreadableImageError``, whatever is in it."""

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

#: Largest image that is decoded by default, in pixels.
MAX_PIXELS = 100_000_000
#: A file may have this many bytes per allowed pixel (four channels of 16 bits), and some beside them.
BYTES_PER_PIXEL = 8
BYTES_BESIDE_PIXELS = 64 * 2**20
#: A file that grows while it is read is read further in pieces of this many bytes.
CHUNK = 2**20
#: Memory that a pixel takes while it is decoded: four bytes of Pillow's, three of the photo's, one of a band between.
BYTES_IN_MEMORY = 8
#: An error's reason is cut to this many characters.
REASON_LENGTH = 200


#: Modules of Pillow, for the warnings filter.
PILLOW = re.compile(r"PIL\.")

ORIENTATION = 0x0112
#: What undoes each EXIF orientation.
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
        reason: Why, in a few words, without the name of the file.
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
    """Decode one image: JPEG, PNG, WebP, BMP or TIFF by content, whatever its name.

    The first frame is read, turned as its EXIF orientation says (damaged EXIF counts as none), and brought to RGB as
    :func:`objemb.images.pixels.rgb_pixels` describes.

    While objemb is in use, the messages that Pillow sends to ``warnings`` are ignored: a damaged tag is no news, and
    under ``-W error`` it must not cost a photo. (A filter for Pillow's modules is added where there is none; to switch
    warnings off around each call would not be safe among threads.)

    Args:
        source: A path, or the bytes of a file.
        id: The photo's id; its path by default.
        metadata: Columns that travel with the photo.
        side: The longest side in pixels at which the photo is used. A JPEG's decoder then scales down by 2, 4 or
            8, never below twice that side, which is faster than to decode all; other formats come in full size. Twice,
            because the decoder drops the high frequencies of each block, which shows in vectors where what is left is
            not averaged further.
        part: The longest side, in pixels of the original, of the smallest part that is used by itself; the part then
            keeps twice ``side``. The whole photo by default.
        max_pixels: A larger image is refused before it is decoded. (WebP above twice ``PIL.Image.MAX_IMAGE_PIXELS``,
            179 million pixels, is refused by Pillow whatever this says.) The file itself may have
            8 bytes per allowed pixel and 64 MiB.
        admit: Called, before the pixels are decoded, with the bytes of memory that this takes at most; may wait.

    Returns:
        The photo; ``size`` is that of the upright original even where the decoder scaled down.

    Raises:
        UnreadableImageError: The image cannot be read; ``reason`` says why.
        ValueError: When ``side``, ``part`` or ``max_pixels`` is not above 0.
    """
    for name, value in {"max_pixels": max_pixels, "side": side, "part": part}.items():
        if value is not None:
            checks.positive(name, value)
    if id is None:
        id = "image" if isinstance(source, bytes) else printable(Path(source).as_posix())
    try:
        data = source if isinstance(source, bytes) else _file_bytes(source, _most_bytes(max_pixels))
        pixels, size, orientation = _decode(data, side, part, max_pixels, admit)
    except _Refusal as refusal:
        raise UnreadableImageError(str(refusal), id) from refusal.__cause__
    path = None if isinstance(source, bytes) else os.path.abspath(source)
    return Photo(id=id, pixels=pixels, size=size, metadata=metadata, path=path, orientation=orientation)


class _Refusal(Exception):
    """Carries a reason to :func:`read_photo`, which knows the name."""


def _most_bytes(max_pixels: int) -> int:
    return BYTES_PER_PIXEL * max_pixels + BYTES_BESIDE_PIXELS


def _file_bytes(path: str | Path, most: int) -> bytes:
    """All of a regular file. Neither a FIFO nor a device can make it wait, and a file that grows is not read on.

    Read at once, because a decoder that maps a file into memory dies with the process when the file is cut off.
    """
    try:
        _expect_regular(os.stat(path))  # before it is opened: to open a device may do something
        with open(path, "rb", opener=open_at_once) as file:
            status = os.fstat(file.fileno())
            _expect_regular(status)
            # not the limit: a read reserves all that it is asked for
            data = _expect_bytes(file.read(min(status.st_size, most) + 1))
            while status.st_size < len(data) <= most and (more := file.read(CHUNK)):
                data += more
    except (FileNotFoundError, NotADirectoryError):
        raise _Refusal("file not found") from None
    except PermissionError:
        raise _Refusal("no permission to read the file") from None
    except MemoryError:
        raise _Refusal("cannot read the file: not enough memory") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no file system can hold
        raise _Refusal(f"cannot read the file: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > most:
        raise _Refusal(f"too many bytes: more than the {most:,} that an image within the pixel limit can need")
    return data


def _expect_bytes(data: bytes | None) -> bytes:
    """What was read; a file on a slow file system, opened not to wait, may have nothing yet."""
    if data is None:
        raise _Refusal("cannot read the file: nothing came of it without waiting")
    return data


def _expect_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise _Refusal("expected a file, found a folder")
    if not stat.S_ISREG(status.st_mode):
        raise _Refusal("expected a regular file, found a device, pipe or socket")


def _decode(
    data: bytes, side: int | None, part: float | None, max_pixels: int, admit: Callable[[int], None]
) -> tuple[Uint8Array, tuple[int, int], int]:
    """uint8 ``(3, h, w)`` and the ``(height, width)`` of the original, both upright, and what turned them so."""
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
    """The reason for an error of a decoder, whatever its type."""
    if isinstance(error, OSError | SyntaxError | ValueError | EOFError) and str(error):
        return str(error)
    return f"damaged ({type(error).__name__}: {error})"


def _expect_image(data: bytes) -> str:
    """The format of a file, which is one of those that are decoded."""
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
    """Pixels, the ``(height, width)`` of the original, which was ``(width, height)`` before anything was done, and the
    orientation that says what was.
    """
    if isinstance(image, TiffImageFile):  # Pillow turns a TIFF while it loads, and forgets by what
        orientation = _orientation(image)
        image.load()
        return rgb_pixels(image), (image.height, image.width), orientation
    image.load()
    width, height = original
    orientation = _orientation(image)
    size = (width, height) if orientation in SIDEWAYS else (height, width)
    return rgb_pixels(upright(image)), size, orientation


def upright(image: Image.Image) -> Image.Image:
    """A loaded image turned as its EXIF orientation says; the image itself where there is nothing to turn."""
    orientation = 1 if isinstance(image, TiffImageFile) else _orientation(image)
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def _scale_down(image: JpegImageFile, side: int, part: float | None) -> None:
    """Tell the JPEG decoder to scale by the largest of 8, 4, 2 that leaves the used part twice ``side`` pixels."""
    longest = max(image.size) if part is None else min(part, max(image.size))
    factor = max((f for f in (8, 4, 2) if longest // f >= 2 * side), default=1)
    image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1 to 8. Asked for after the pixels are loaded: in a PNG it may stand behind them."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # the metadata is damaged, not the photo
        return 1
    return value if value in UPRIGHT else 1
