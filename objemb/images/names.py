"""Names of files as texts that survive JSON, Arrow and a terminal."""

from __future__ import annotations

import unicodedata


def printable(text: str) -> str:
    r"""The text with what UTF-8 cannot hold (the bytes of a file name in another encoding) written as ``\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def composed(text: str) -> str:
    """The text in the one normal form (NFC) in which names are compared.

    Systems write a letter with an accent as one character or as two, and give back what they were given or not: the
    names of one file in a list and on a disk may differ by that alone.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)
