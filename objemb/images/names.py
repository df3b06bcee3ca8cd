"""Names of files as texts that survive JSON, Arrow and a terminal."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text with what UTF-8 cannot hold (the bytes of a file name in another encoding) written as ``\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
