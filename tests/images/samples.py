"""Small image files made in memory."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from objemb.images import read_photo

#: Pillow's names of the five formats, with a usual suffix.
SUFFIXES = {"JPEG": ".jpg", "PNG": ".png", "WEBP": ".webp", "BMP": ".bmp", "TIFF": ".tif"}


def encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    """A file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def flat(kind: str = "PNG", size: tuple[int, int] = (4, 2), colour: Any = (10, 20, 30), mode: str = "RGB") -> bytes:
    """A file of one colour; ``size`` is (width, height)."""
    return encode(Image.new(mode, size, colour), kind)


def textured(height: int, width: int, seed: int = 0) -> Image.Image:
    """A picture that compresses as photos do: smooth, with some noise."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [127 + 90 * np.sin(x / rng.uniform(4, 20) + y / rng.uniform(4, 20)) for _ in range(3)]
    noisy = np.stack(waves, axis=2) + rng.normal(0, 8, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def png(width: int, height: int, rows: bytes, *, bits: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """A PNG with any header; ``extra`` are ready chunks that go before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def png_chunk(name: bytes, body: bytes) -> bytes:
    """Length, name, body and checksum."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def tiff(tags: dict[int, int], pixels: bytes) -> bytes:
    """A little-endian TIFF with LONG tags of one value; the strip's offset is filled in."""
    tags = {273: 8, 279: len(pixels), **tags}
    directory = b"".join(struct.pack("<HHII", tag, 4, 1, tags[tag]) for tag in sorted(tags))
    start = 8 + len(pixels) + len(pixels) % 2
    head = b"II*\0" + struct.pack("<I", start) + pixels + b"\0" * (len(pixels) % 2)
    return head + struct.pack("<H", len(tags)) + directory + b"\0\0\0\0"


def write(path: Path, data: bytes) -> Path:
    """Writes a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def turned(orientation: object) -> Image.Exif:
    """EXIF that says how the photo lies."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def pixel(data: bytes, row: int = 0, column: int = 0) -> list[int]:
    """A pixel of a file as it is decoded."""
    return read_photo(data).pixels[:, row, column].tolist()
