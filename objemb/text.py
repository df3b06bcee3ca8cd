"""Foreign texts as people may see them, in a terminal or on a page."""

from __future__ import annotations

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
