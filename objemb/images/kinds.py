"""Recognises the format of a file by its first bytes; its name only decides whether they are read."""

from __future__ import annotations

import mimetypes
import os
import stat
from pathlib import Path

#: Signatures of formats: (offset, bytes, format). Formats that are not decoded are listed so that errors can name them.
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
    (4, b"ftyphevc", "HEIC"),
    (4, b"ftypmif1", "HEIF"),
    (4, b"ftypmsf1", "HEIF"),
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
#: Bytes at the start of a file that identify its format.
HEAD = 16

#: Usual suffixes of image files, in upper or lower case. Files with these are taken for images without being read.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
#: Formats by which files with other names are recognised as photos: those that are decoded, and others, so that users
#: learn that these were skipped. TIFF is left out because raw files of cameras are TIFF files that start with a
#: thumbnail, and formats with a signature of two bytes are because a text could start with these.
PHOTO_KINDS = ("JPEG", "PNG", "WebP", "HEIC", "HEIF", "AVIF", "GIF", "JPEG XL", "JPEG 2000")
#: Python's own table rather than that of the machine, so that the same files are read everywhere.
TYPES = mimetypes.MimeTypes()


def kind_of(data: bytes) -> str | None:
    """The format of a file with these first bytes, one of those in :data:`SIGNATURES`, or None."""
    return next((kind for offset, magic, kind in SIGNATURES if data.startswith(magic, offset)), None)


def named_as_image(name: str) -> bool:
    """Whether a name has one of :data:`IMAGE_SUFFIXES`."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def may_be_photo(path: str | Path) -> bool:
    """Whether a file with another suffix, such as ``.mpo``, ``.jpg_large`` or ``.heic``, or without one is a photo.

    Files with suffixes of texts, tables, archives or videos are not opened: a million photos may come with a million
    label files.
    """
    kind, packing = TYPES.guess_type(os.fspath(path), strict=False)
    if packing is not None or (kind is not None and not kind.startswith("image/")):
        return False
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return False
        with open(path, "rb", buffering=0, opener=open_at_once) as file:
            return kind_of(file.read(HEAD) or b"") in PHOTO_KINDS
    except (OSError, ValueError):
        return False


def open_at_once(path: str, flags: int) -> int:
    """An opener for :func:`open` that does not wait for the writer of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
