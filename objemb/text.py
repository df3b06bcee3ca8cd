"""Foreign texts as people may see them, in a terminal or on a page, and JSON for programs."""

from __future__ import annotations

import json
import math
import unicodedata

#: Controls, marks that change the direction of what follows or cannot be seen, halves of characters, ends of lines.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
#: Unseen, but a part of how words of some scripts, and emoji, are written.
_JOINERS = "\u200c\u200d"


def visible(text: str) -> str:
    r"""The text with unseen characters written as ``\x1b`` or ``\u202e``: file names are foreign.

    Control characters could steer a terminal, and marks of direction could make a name look like another one.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSEEN and c not in _JOINERS else c for c in text)


def json_text(document: object, encoding: str = "utf-8") -> str:
    """A document as one line of JSON: what the option ``--json`` of all commands prints, and what a service answers.

    Args:
        document: The document, such as ``SearchResult.to_json()``.
        encoding: The encoding of the output. If it lacks a character, or the document contains lone surrogates, all
            characters that are not ASCII are escaped.

    Raises:
        ValueError: The document contains NaN or infinity, which JSON cannot hold.
    """
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(document, ensure_ascii=True, allow_nan=False)
    return text


def score_text(score: float) -> str:
    """A score with three decimals; a smaller one, as of a box with few visual words, with as many as show two digits.

    Scores below 1e-8 are ``0.000``, as 0 is.
    """
    if not 1e-8 <= abs(score) < 0.01:
        return f"{score:.3f}"
    return f"{score:.{1 - math.floor(math.log10(abs(score)))}f}"


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
