"""Pillow's decoders with corrections, for files that they misread, refuse needlessly or take unbounded time for."""

from __future__ import annotations

import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

#: Maximum number of scans of a JPEG. The decoder processes the whole image for each scan, however short; encoders
#: write about ten.
MAX_SCANS = 100
#: Whether a byte that follows 255 makes it a JPEG marker: restart markers are left out, and neither a stuffed zero nor
#: another 255 does (ITU-T T.81, B.1.1).
MARKS = np.array([0 < code < 0xFF and not 0xD0 <= code <= 0xD7 for code in range(256)])
#: Codes of the markers without a length, of the end of the image, and of the start of a scan.
BARE, END, SCAN = (0x01, 0xD8), 0xD9, 0xDA
#: Ancillary PNG chunks that affect pixels or orientation.
CHUNKS = (b"tRNS", b"eXIf")
#: Text chunks of PNG in which programs store an orientation.
TEXTS = (b"Raw profile type exif\0", b"XML:com.adobe.xmp\0")
#: Maximum size of a text that is decompressed.
TEXT_BYTES = 2**20
#: Factors for the transparent grey of a PNG, by Pillow's raw mode: Pillow expands the pixels to eight bits, but not the
#: transparent grey.
SPREAD = {"L;2": 85, "L;4": 17}
#: TIFF tags, by their names in the TIFF 6.0 specification.
IMAGE_WIDTH, IMAGE_LENGTH, TILE_WIDTH, TILE_LENGTH = 256, 257, 322, 323
BITS_PER_SAMPLE, COMPRESSION, STRIP_OFFSETS, ROWS_PER_STRIP, PLANAR, TILE_OFFSETS = 258, 259, 273, 278, 284, 324
UNCOMPRESSED, FAX, SEPARATE = 1, (2, 3, 4), 2


class Jpeg(JpegImageFile):
    """A JPEG whose EXIF is not searched for a resolution, which is not needed; damaged EXIF would raise an error."""

    def _read_dpi_from_exif(self) -> None:
        pass


class Png(PngImageFile):
    """A PNG whose transparent colour is scaled like its pixels."""

    def load_prepare(self) -> None:
        """Scale the transparent colour before the pixels are read, while the raw mode is still known."""
        raw = self.tile[0][3] if self.tile else ""
        colour = self.info.get("transparency")
        if isinstance(colour, int) and raw in SPREAD:
            self.info["transparency"] = colour * SPREAD[raw]
        elif isinstance(colour, tuple) and raw == "RGB;16B":
            self.info["transparency"] = tuple(value >> 8 for value in colour)
        super().load_prepare()


class Tiff(TiffImageFile):
    """A TIFF that loads even if its EXIF or XMP is damaged (Pillow reads them while loading the pixels)."""

    def getexif(self) -> Image.Exif:
        """The EXIF data, empty if damaged."""
        try:
            return super().getexif()
        except Exception:
            return Image.Exif()

    def _setup(self) -> None:
        """Use libtiff for planes of 16 bits, whose bytes Pillow's own reader takes for pixels of 8 bits."""
        super()._setup()  # type: ignore[no-untyped-call,unused-ignore]  # private to Pillow
        deep = max(self.tag_v2.get(BITS_PER_SAMPLE, (1,))) > 8
        apart = self.tag_v2.get(PLANAR) == SEPARATE and len(self.getbands()) > 1
        if deep and apart and not self.use_load_libtiff:
            self.use_load_libtiff = True
            box = (0, 0, self.tag_v2[IMAGE_WIDTH], self.tag_v2[IMAGE_LENGTH])
            raw = (f"{self.mode};16N", False, self.tag_v2.offset)  # type: ignore[attr-defined,unused-ignore]  # likewise
            self.tile = [type(self.tile[0])("libtiff", box, 0, raw)]

    def prepare(self, expect_size: Callable[[tuple[int, int]], None], length: int) -> None:
        """Check what Pillow does not check, and allocate the pixels before it applies its own limit.

        Args:
            expect_size: Raises an error for a ``(width, height)`` above the limit; tiles may be larger than the image.
            length: Size of the file in bytes.

        Raises:
            ValueError: The file has too few strips, tiles or bits for its rows; the missing ones would be black.
        """
        tags = self.tag_v2
        width, height = tags[IMAGE_WIDTH], tags[IMAGE_LENGTH]
        across = 1
        if TILE_WIDTH in tags and TILE_LENGTH in tags:
            across, down = tags[TILE_WIDTH], tags[TILE_LENGTH]
            expect_size((across, down))
            expected, offsets = -(-width // max(across, 1)) * -(-height // max(down, 1)), tags.get(TILE_OFFSETS, ())
        else:
            rows = tags.get(ROWS_PER_STRIP, height)
            expected, offsets = -(-height // max(rows, 1)), tags.get(STRIP_OFFSETS, ())
        if tags.get(PLANAR) == SEPARATE:
            expected *= len(self.getbands())
        if not self.use_load_libtiff and len(offsets) < expected:  # libtiff checks this itself
            raise ValueError(f"expected {expected} strips or tiles for its rows, found {len(offsets)}")
        if tags.get(COMPRESSION) in FAX and height > 8 * length:  # a row of a fax takes at least one bit
            raise ValueError(f"expected at least one bit for each of its {height:,} rows, found {length:,} bytes")
        self.im = Image.new(self.mode, (width, height)).im


#: The formats that are decoded, and Pillow's class for each. The classes are called directly rather than through
#: ``PIL.Image.open``, so that no other decoder can run, the multi-picture format of some cameras is read as the JPEG
#: that it starts with, and Pillow's global pixel limit does not interfere with ``max_pixels``.
DECODERS: Mapping[str, type[ImageFile.ImageFile]] = MappingProxyType(
    {"JPEG": Jpeg, "PNG": Png, "WebP": WebPImageFile, "BMP": BmpImageFile, "TIFF": Tiff}
)


def scans_of(data: bytes, most: int = MAX_SCANS) -> int:
    """The number of scans of the first image of a JPEG file, counted up to ``most + 1``."""
    content = np.frombuffer(data, np.uint8)
    follows = np.flatnonzero(content[:-1] == 0xFF) + 1
    markers: list[int] = follows[MARKS[content[follows]]].tolist()
    scans = number = position = 0
    while scans <= most and (number := bisect_left(markers, position, number)) < len(markers):
        code, position = data[markers[number]], markers[number] + 1
        if code == END:
            break
        scans += code == SCAN
        if code not in BARE:
            position += max(2, int.from_bytes(data[position : position + 2], "big"))
        position += 1  # where the code of the next marker may stand
    return scans


def pixel_chunks(data: bytes) -> bytes:
    """A PNG reduced to the chunks that its pixels and orientation depend on.

    Pillow would refuse a photo because of long or damaged texts and colour profiles; further frames are not needed.
    """
    kept, position = [(0, 8)], 8
    while position + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        end = min(position + 12 + length, len(data))
        critical = not name[0] & 0x20
        if critical or name in CHUNKS or _is_short_text(name, data, position + 8, end - 4):
            kept.append((position, end))
        position = end
        if name == b"IEND":
            break
    return b"".join(data[start:end] for start, end in kept)


def _is_short_text(name: bytes, data: bytes, start: int, end: int) -> bool:
    """Whether a chunk is one of :data:`TEXTS` and at most :data:`TEXT_BYTES` long when decompressed."""
    if not data.startswith(TEXTS, start):
        return False
    text = data[data.index(b"\0", start) + 1 : end]
    if name == b"tEXt" or (name == b"iTXt" and text[:1] == b"\0"):
        return len(text) <= TEXT_BYTES
    packed = text[1:] if name == b"zTXt" else text[2:].split(b"\0", 2)[-1]
    unpacker = zlib.decompressobj()
    try:
        unpacker.decompress(packed, TEXT_BYTES)
    except zlib.error:
        return False
    return not unpacker.unconsumed_tail


def webp_size(data: bytes) -> tuple[int, int]:
    """``(width, height)`` of a WebP according to its first chunk (RFC 9649).

    Raises:
        ValueError: The first chunk does not contain a size.
    """
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    raise ValueError("expected a chunk VP8, VP8L or VP8X at its start")
