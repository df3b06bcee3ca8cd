"""File names as texts that JSON, Arrow and a terminal can represent, and the spellings that other programs use."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

#: The encoding of Western Windows programs that do not write UTF-8.
LEGACY = "cp1252"
#: A URL with its scheme of at least two letters, since a single one is a Windows drive.
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)

#: Separators of paths within a word of a command, such as ``key=[/a/b, /c/d]``.
_BETWEEN = re.compile(r"""(['"=,\[\](){}]+\s*)""")


def printable(text: str) -> str:
    r"""The text with characters that UTF-8 cannot encode (bytes of a file name in another encoding) as ``\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def composed(text: str) -> str:
    """The text in the Unicode normal form in which names are compared, NFC.

    Some systems store a letter with an accent as one character, others as two, so that the name of a file in a list
    may differ from that on the disk.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def readable(text: str) -> str:
    """The text with bytes that were not UTF-8 decoded as Windows-1252; if that is impossible, :func:`printable`."""
    if text.isascii():
        return text
    try:
        raw = text.encode("utf-8", "surrogateescape")
        return text if raw.isascii() else raw.decode("utf-8")
    except UnicodeEncodeError:  # a surrogate that does not represent a byte
        return printable(text)
    except UnicodeDecodeError:
        return raw.decode(LEGACY, "replace")


def spellings(text: str) -> list[str]:
    r"""A path as it is written, followed by other spellings that may be meant.

    These are made by the following steps, each applied to the result of the one before: remove surrounding blanks and
    quotes, replace ``\`` by ``/``, remove ``file://``, replace ``~`` by the home folder, decode bytes that are not
    UTF-8 as Windows-1252, and write accented letters as one character (NFC) and as two (NFD).
    """
    tried = [text, text.strip()]
    for quote in "\"'":
        if len(tried[-1]) > 2 and tried[-1][0] == tried[-1][-1] == quote:
            tried.append(tried[-1][1:-1])
    tried.append(tried[-1].replace("\\", "/"))
    if tried[-1].lower().startswith("file://"):
        tried.append(url2pathname(urlsplit(tried[-1]).path))
    if tried[-1].startswith("~"):
        tried.append(os.path.expanduser(tried[-1]))
    tried.append(readable(tried[-1]))
    if not tried[-1].isascii():
        tried += [unicodedata.normalize(form, tried[-1]) for form in ("NFC", "NFD")]
    return list(dict.fromkeys(tried))


def find_spelled(folder: Path, text: str, inside: Sequence[str] = ("",)) -> tuple[str, str]:
    """Find a file that a list names.

    Args:
        folder: The folder of the list.
        text: The path as written in the list.
        inside: Subfolders that the path may be relative to.

    Returns:
        The path relative to ``folder``, and the spelling of the name: the first for which a file exists, among all
        spellings in all subfolders, or the first of all if there is none.
    """
    spelled = spellings(text)
    if len(spelled) * len(inside) > 1:
        for name in spelled:
            for below in inside:
                path = os.path.join(below, name)
                if os.path.exists(folder / path):
                    return path, name
        spelled = [text.strip(), *spelled]
    return os.path.join(inside[0], spelled[0]), spelled[0]


def is_address(text: str) -> bool:
    """Whether a text is the URL of something that is not a local file, such as ``https://...``."""
    scheme = ADDRESS.match(text.strip())
    return scheme is not None and scheme[1].lower() != "file"


def without_folders(command: str) -> str:
    """A command with absolute paths reduced to their last part, so that pages do not show the folders of a machine."""
    try:
        words = shlex.split(command)
    except ValueError:  # unbalanced quotes
        words = command.split()
    return shlex.join("".join(map(_last_part, _BETWEEN.split(word))) for word in words)


def _last_part(path: str) -> str:
    if not re.match(r"(?:[A-Za-z]:)?[\\/]", path):
        return path
    return re.split(r"[\\/]+", path.rstrip("\\/"))[-1]
