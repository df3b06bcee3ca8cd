"""What commands print: JSON for machines and tables for people on stdout, notes on stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from objemb.text import visible

if TYPE_CHECKING:
    from objemb.models import Model

#: What is said on stderr, for the log file of a run; nothing of it is printed a second time.
said = logging.getLogger("objemb.cli.said")
said.propagate = False
said.addHandler(logging.NullHandler())


def print_json(document: object) -> None:
    """Exactly one JSON document on stdout, or an error and nothing; numbers that JSON lacks are an error.

    What the encoding of stdout does not hold, and halves of characters, become escapes of JSON.
    """
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except UnicodeEncodeError:
        text = json.dumps(document, ensure_ascii=True, allow_nan=False)
    sys.stdout.write(text + "\n")


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
