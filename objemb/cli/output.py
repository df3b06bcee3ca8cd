"""What commands print: JSON for machines and tables for people on stdout, notes on stderr."""

from __future__ import annotations

import json
import logging
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from objemb.models import Model

#: What is said on stderr, for the log file of a run; nothing of it is printed a second time.
said = logging.getLogger("objemb.cli.said")
said.propagate = False
said.addHandler(logging.NullHandler())
#: Controls, marks that change the direction of what follows or cannot be seen, halves of characters, ends of lines.
_UNSEEN = ("Cc", "Cf", "Cs", "Zl", "Zp")
#: Unseen, but a part of how words of some scripts, and emoji, are written.
_JOINERS = "\u200c\u200d"


def print_json(document: Any) -> None:
    """Exactly one JSON document on stdout, or an error and nothing; numbers that JSON lacks are an error.

    What the encoding of stdout does not hold, and halves of characters, become escapes of JSON.
    """
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(document, ensure_ascii=True, allow_nan=False)
    sys.stdout.write(text + "\n")


def visible(text: str) -> str:
    r"""The text with unseen characters written as ``\x1b`` or ``\u202e``: file names are foreign.

    Control characters could steer a terminal, and marks of direction could make a name look like another one.
    """
    if text.isprintable():
        return text
    return "".join(_escaped(c) if unicodedata.category(c) in _UNSEEN and c not in _JOINERS else c for c in text)


def _escaped(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


class Said:
    """What the options before the command say of messages."""

    quiet = False


def note(text: str) -> None:
    """A line for the person at the terminal, on stderr; not with ``--quiet``."""
    said.info(visible(text))
    if not Said.quiet:
        print(visible(text), file=sys.stderr)


def complain(text: str) -> None:
    """A line on stderr that nobody can do without: why there is no result."""
    said.error(visible(text))
    print(visible(text), file=sys.stderr)


def note_untrained(model: Model) -> None:
    """Say it where networks of a model have random weights: everything works with them, and nothing is found."""
    if model.untrained:
        note(f"note: random weights: {', '.join(model.untrained)} learned nothing, so similarities mean little")


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Names and values in two columns."""
    rows = [(name, str(value)) for name, value in pairs]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{width}}  {visible(value)}")


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for people; text is shown as it is, never read as markup."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(visible(str(cell))) for cell in row))
    Console(markup=False, highlight=False).print(table)


def human_bytes(count: float) -> str:
    """``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
