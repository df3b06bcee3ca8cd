"""Text files as other programs write them."""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import TextIO

#: Marks at the start of a file, and what they mean; those of UTF-32 start like those of UTF-16.
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def encoding_of(path: str | Path) -> str:
    """The encoding of a text file by its first bytes: UTF-8 unless it has the mark or the zeros of another.

    PowerShell's ``>``, and Excel as "Unicode text", write UTF-16.
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
    """A text file for reading; never a ``UnicodeError``.

    Bytes that are no UTF-8 become the surrogates of ``surrogateescape``, so that a path in another encoding still leads
    to its file; :func:`objemb.images.names.readable` makes texts of them. Where UTF-16 is damaged, the character is
    replaced.
    """
    encoding = encoding_of(path)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    return open(path, encoding=encoding, errors=errors, newline=newline)


def read_text(path: str | Path | os.PathLike[str]) -> str:
    """All of a small text file, as :func:`open_text` reads it."""
    with open_text(Path(path)) as file:
        return file.read()
