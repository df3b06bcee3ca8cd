"""One image file to one photo, or to one clear error: nothing that is in a file can do more harm than that."""

from __future__ import annotations

import io
import os
import re
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile
from torch import Tensor

from objemb import checks
from objemb.images.names import printable
from objemb.images.pixels import rgb_pixels
from objemb.structures import Photo, Scalar

#: Largest image that is decoded unless told otherwise, in pixels.
MAX_PIXELS = 100_000_000
#: A file may have this many bytes per allowed pixel (four channels of 16 bits), and some beside them.
BYTES_PER_PIXEL = 8
BYTES_BESIDE_PIXELS = 64 * 2**20
#: An error's reason is cut to this many characters.
REASON_LENGTH = 200


class _Jpeg(JpegImageFile):
    """A JPEG whose resolution is not looked up in its EXIF: nobody asks for it, and a damaged one costs the photo."""

    def _read_dpi_from_exif(self) -> None:
        pass


class _Tiff(TiffImageFile):
    """A TIFF that loads although its EXIF or XMP is damaged (Pillow reads them while it loads the pixels)."""

    def getexif(self) -> Image.Exif:
        try:
            return super().getexif()
        except Exception:
            return Image.Exif()


#: Formats that are decoded, and by which class of Pillow. The classes are called directly, not through
#: ``PIL.Image.open``: no other decoder can ever run, the multi-picture format of some cameras is read as the JPEG it
#: starts with, and Pillow's own pixel limit, a global that warns first, does not stand in the way of ``max_pixels``.
DECODERS: Mapping[str, type[ImageFile.ImageFile]] = MappingProxyType(
    {"JPEG": _Jpeg, "PNG": PngImageFile, "WebP": WebPImageFile, "BMP": BmpImageFile, "TIFF": _Tiff}
)
#: How files start: (offset, bytes, format). What is not decoded is here to be named in the error.
SIGNATURES = (
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"BM", "BMP"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"II+\0", "TIFF"),
    (0, b"MM\0+", "TIFF"),
    (0, b"GIF8", "GIF"),
    (0, b"%PDF", "PDF"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftyp", "a video"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"8BPS", "PSD"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"%!PS", "PostScript"),
    (0, b"PK\3\4", "a ZIP archive"),
    (0, b"<svg", "SVG"),
    (0, b"<", "XML or HTML"),
)

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
#: Orientations that swap height and width.
SIDEWAYS = (5, 6, 7, 8)
#: TIFF tags, by their names in the TIFF 6.0 specification.
IMAGE_WIDTH, IMAGE_LENGTH, TILE_WIDTH, TILE_LENGTH = 256, 257, 322, 323


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
        side: The longest side in pixels at which the photo is looked at. A JPEG's decoder then scales down by 2, 4 or
            8, never below twice that side, which is faster than to decode all; other formats come in full size. Twice,
            because the decoder drops the high frequencies of each block, which shows in vectors where what is left is
            not averaged further.
        part: The longest side, in pixels of the original, of the least part that is looked at by itself; the part then
            keeps twice ``side``. The whole photo by default.
        max_pixels: A larger image is refused before it is decoded. (WebP above twice ``PIL.Image.MAX_IMAGE_PIXELS``,
            179 million pixels, is refused by Pillow whatever this says.) The file itself may have
            8 bytes per allowed pixel and 64 MiB.

    Returns:
        The photo; ``size`` is that of the upright original even where the decoder scaled down.

    Raises:
        UnreadableImageError: For whatever keeps the image from being read: its reason says what.
        ValueError: When ``side``, ``part`` or ``max_pixels`` is not above 0.
    """
    for name, value in {"max_pixels": max_pixels, "side": side, "part": part}.items():
        if value is not None:
            checks.positive(name, value)
    if id is None:
        id = "image" if isinstance(source, bytes) else printable(Path(source).as_posix())
    try:
        data = source if isinstance(source, bytes) else _file_bytes(source, _most_bytes(max_pixels))
        pixels, size = _decode(data, side, part, max_pixels)
    except _Refusal as refusal:
        raise UnreadableImageError(str(refusal), id) from refusal.__cause__
    return Photo(id=id, pixels=pixels, size=size, metadata=metadata)


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
        with open(path, "rb", opener=_open_at_once) as file:
            _expect_regular(os.fstat(file.fileno()))
            data = file.read(most + 1)
    except (FileNotFoundError, NotADirectoryError):
        raise _Refusal("file not found") from None
    except PermissionError:
        raise _Refusal("no permission to read the file") from None
    except (OSError, ValueError) as error:  # ValueError: a path that no file system can hold
        raise _Refusal(f"cannot read the file: {getattr(error, 'strerror', None) or error}") from error
    if len(data) > most:
        raise _Refusal(f"too many bytes: more than the {most:,} that an image within the pixel limit can need")
    return data


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _expect_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise _Refusal("expected a file, found a folder")
    if not stat.S_ISREG(status.st_mode):
        raise _Refusal("expected a regular file, found a device, pipe or socket")


def _decode(data: bytes, side: int | None, part: float | None, max_pixels: int) -> tuple[Tensor, tuple[int, int]]:
    """uint8 ``(3, h, w)`` and the ``(height, width)`` of the original, both upright."""
    kind = _expect_image(data)
    _ignore_decoder_warnings()
    try:
        if kind == "WebP":
            _expect_size(_webp_size(data), max_pixels)  # Pillow reserves the canvas when it opens the file
        with DECODERS[kind](io.BytesIO(data)) as image:
            _expect_size(image.size, max_pixels)
            return _upright_pixels(image, side, part, max_pixels)
    except _Refusal:
        raise
    except MemoryError:
        raise _Refusal(f"cannot decode {kind}: not enough memory") from None
    except Exception as error:  # decoders raise almost every kind for damaged files
        raise _Refusal(f"cannot decode {kind}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """What a decoder complains of, or what it stumbled over when it did not mean to complain."""
    if isinstance(error, OSError | SyntaxError | ValueError | EOFError) and str(error):
        return str(error)
    return f"damaged ({type(error).__name__}: {error})"


def _expect_image(data: bytes) -> str:
    """The format of a file, which is one of those that are decoded."""
    if not data:
        raise _Refusal("empty file")
    kind = next((kind for offset, magic, kind in SIGNATURES if data.startswith(magic, offset)), "no known image")
    if kind not in DECODERS:
        raise _Refusal(f"expected one of {', '.join(DECODERS)}, found {kind}")
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


def _webp_size(data: bytes) -> tuple[int, int]:
    """``(width, height)`` of a WebP from its first chunk (RFC 9649)."""
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    raise _Refusal("cannot decode WebP: expected a chunk VP8, VP8L or VP8X at its start")


def _upright_pixels(
    image: ImageFile.ImageFile, side: int | None, part: float | None, max_pixels: int
) -> tuple[Tensor, tuple[int, int]]:
    width, height = image.size
    if isinstance(image, TiffImageFile):
        _prepare_tiff(image, max_pixels)
    if side is not None and isinstance(image, JpegImageFile):
        _scale_down(image, side, part)
    image.load()
    orientation = _orientation(image)
    if isinstance(image, TiffImageFile):  # Pillow turns a TIFF while it loads
        orientation, (width, height) = 1, image.size
    upright = image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image
    return rgb_pixels(upright), (width, height) if orientation in SIDEWAYS else (height, width)


def _prepare_tiff(image: TiffImageFile, max_pixels: int) -> None:
    """Check the tiles, which may be larger than the image, and reserve the pixels before Pillow applies its limit."""
    tags = image.tag_v2
    if TILE_WIDTH in tags and TILE_LENGTH in tags:
        _expect_size((tags[TILE_WIDTH], tags[TILE_LENGTH]), max_pixels)
    image.im = Image.new(image.mode, (tags[IMAGE_WIDTH], tags[IMAGE_LENGTH])).im


def _scale_down(image: JpegImageFile, side: int, part: float | None) -> None:
    """Tell the JPEG decoder to scale by the largest of 8, 4, 2 that leaves what is looked at twice ``side`` pixels."""
    longest = max(image.size) if part is None else min(part, max(image.size))
    factor = max((f for f in (8, 4, 2) if longest // f >= 2 * side), default=1)
    image.draft(None, (max(1, image.width // factor), max(1, image.height // factor)))


def _orientation(image: ImageFile.ImageFile) -> int:
    """EXIF orientation 1 to 8. Asked for after the pixels are loaded: in a PNG it may stand behind them."""
    try:
        value = image.getexif().get(ORIENTATION, 1)
    except Exception:  # the metadata is damaged, not the photo
        return 1
    return value if value in UPRIGHT else 1
