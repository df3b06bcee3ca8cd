"""Names of files as texts: what survives JSON, Arrow and a terminal, and what other programs make of them."""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

#: The encoding of Windows programs that do not write UTF-8.
LEGACY = "cp1252"
#: An address, with its scheme: two letters at least, one is a Windows drive.
ADDRESS = re.compile(r"([a-z][a-z0-9+.-]+)://", re.IGNORECASE)

#: What stands between paths within a word of a command, such as ``key=[/a/b, /c/d]``.
_BETWEEN = re.compile(r"""(['"=,\[\](){}]+\s*)""")


def printable(text: str) -> str:
    r"""The text with what UTF-8 cannot hold (the bytes of a file name in another encoding) written as ``\udcff``."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def composed(text: str) -> str:
    """The text in the one normal form (NFC) in which names are compared.

    Systems write a letter with an accent as one character or as two, and give back what they were given or not: the
    names of one file in a list and on a disk may differ by that alone.
    """
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def readable(text: str) -> str:
    """A text whose bytes were no UTF-8 as Windows-1252, in which Western programs write them; else as printable."""
    if text.isascii():
        return text
    try:
        raw = text.encode("utf-8", "surrogateescape")
        return text if raw.isascii() else raw.decode("utf-8")
    except UnicodeEncodeError:  # a surrogate that stands for no byte
        return printable(text)
    except UnicodeDecodeError:
        return raw.decode(LEGACY, "replace")


def spellings(text: str) -> list[str]:
    r"""A path as it is written, and then as it may be meant.

    In this order, each with what was done before: without blanks and quotes around it, with ``/`` for ``\``, without
    ``file://``, with the home folder for ``~``, with Windows-1252 for bytes that are no UTF-8, with letters and their
    accents as one character and as two.
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
    """The path of a file that a list names, relative to the folder, and how its name is to be spelled.

    Args:
        folder: That of the list.
        text: As it is written.
        inside: Folders below that it may lie in.

    Returns:
        The first that exists among all spellings in all folders; the first of all where none does.
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
    """Whether a text is the address of something that does not lie in a folder, such as ``https://...``."""
    scheme = ADDRESS.match(text.strip())
    return scheme is not None and scheme[1].lower() != "file"


def without_folders(command: str) -> str:
    """A command with the last part of each absolute path in it: where things lie on a machine is not for a page."""
    try:
        words = shlex.split(command)
    except ValueError:  # quotes that do not close
        words = command.split()
    return shlex.join("".join(map(_last_part, _BETWEEN.split(word))) for word in words)


def _last_part(path: str) -> str:
    if not re.match(r"(?:[A-Za-z]:)?[\\/]", path):
        return path
    return re.split(r"[\\/]+", path.rstrip("\\/"))[-1]
