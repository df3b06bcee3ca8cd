"""Text files in the encodings that other programs write."""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import TextIO

#: Byte order marks and their encodings. UTF-32 comes before UTF-16, whose marks are prefixes of its marks.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(path: str | Path) -> str:
    """The encoding of a text file, judged by its first bytes: UTF-8 unless there is the byte order mark of another
    encoding, or the zeros of UTF-16.

    UTF-16 is written by PowerShell's ``>``, and by Excel as "Unicode text".
    """
    with open(path, "rb") as file:
        head = file.read(4)
    for mark, encoding in MARKS:
        if head.startswith(mark):
            return encoding
    if len(head) == 4 and head[1] == head[3] == 0 and head[0] and head[2]:
        return "utf-16-le"
    if len(head) == 4 and head[0] == head[2] == 0 and head[1] and head[3]:
        return "utf-16-be"
    return "utf-8"


def open_text(path: str | Path, newline: str | None = None) -> TextIO:
    """Open a text file for reading, without ever raising ``UnicodeError``.

    Bytes that are not UTF-8 are kept by ``surrogateescape``, so that a path in another encoding still leads to its
    file; :func:`objemb.images.names.readable` converts them to characters. Damaged characters of UTF-16 are replaced.
    """
    encoding = encoding_of(path)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    return open(path, encoding=encoding, errors=errors, newline=newline)


def read_text(path: str | Path | os.PathLike[str]) -> str:
    """The content of a small text file, decoded as by :func:`open_text`."""
    with open_text(Path(path)) as file:
        return file.read()
