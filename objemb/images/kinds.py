"""The format of a file by its first bytes; its name only decides whether they are read."""

from __future__ import annotations

import mimetypes
import os
import stat
from pathlib import Path

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

#: Names of image files usually end like this, in any case; such files are images until the decoder says otherwise.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff")
#: Formats by which a file of any other name counts as a photo: those that are decoded, and those that are not but whose
#: absence a user must be told of. TIFF is not among them, since the raw files of cameras are TIFF with a thumbnail
#: first; nor are formats whose two magic bytes a text could start with.
PHOTO_KINDS = ("JPEG", "PNG", "WebP", "HEIC", "HEIF", "AVIF", "GIF", "JPEG XL", "JPEG 2000")
#: Python's own table, not that of the machine: which files are looked into must not depend on it.
TYPES = mimetypes.MimeTypes()


def kind_of(data: bytes) -> str | None:
    """The format that a file with these first bytes has, one of :data:`SIGNATURES`, or None."""
    return next((kind for offset, magic, kind in SIGNATURES if data.startswith(magic, offset)), None)


def named_as_image(name: str) -> bool:
    """Whether a name ends as those of images do."""
    return name.lower().endswith(IMAGE_SUFFIXES)


def may_be_photo(path: str | Path) -> bool:
    """Whether a file that is not named like an image is one: ``.mpo``, ``.jpg_large``, ``.heic``, no suffix at all.

    Files that are named like something else (texts, tables, archives, films) are not opened: beside a million photos
    there may be a million label files.
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
    """An opener for :func:`open` that does not wait for the other end of a pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
