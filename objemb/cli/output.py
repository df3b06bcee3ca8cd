"""Output of commands: JSON or tables on stdout, notes on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from objemb.text import json_text, visible

if TYPE_CHECKING:
    from objemb.models.base import EmbeddingModel

#: Logs the notes on stderr to the log file of a run; they are not printed a second time.
said = logging.getLogger("objemb.cli.said")
said.propagate = False
said.addHandler(logging.NullHandler())


def print_json(document: object) -> None:
    """Print exactly one JSON document on stdout, or raise an error and print nothing; NaN and infinity are errors.

    Characters that the encoding of stdout lacks, and lone surrogates, are escaped.
    """
    sys.stdout.write(json_text(document, sys.stdout.encoding or "ascii") + "\n")


class Said:
    """Values of the options for messages."""

    quiet = False


def note(text: str) -> None:
    """Print a line on stderr, unless ``--quiet`` is set."""
    said.info(visible(text))
    if not Said.quiet:
        print(visible(text), file=sys.stderr)


def complain(text: str) -> None:
    """Print a line on stderr even with ``--quiet``: the reason why there is no result."""
    said.error(visible(text))
    print(visible(text), file=sys.stderr)


def note_untrained(model: EmbeddingModel) -> None:
    """Print a note if networks of a model have random weights, with which search runs but finds nothing useful."""
    if model.untrained:
        note(f"note: random weights: {', '.join(model.untrained)} not trained, so similarities mean little")


def note_reduced(model: EmbeddingModel) -> None:
    """Print a note if the networks of a model compute in another precision than single precision."""
    if model.precision != "fp32":
        note(f"note: the networks compute in {model.precision}")


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values in two columns."""
    rows = [(name, str(value)) for name, value in pairs]
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        print(f"{name:<{width}}  {visible(value)}")


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; text is printed literally, never interpreted as markup."""
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
    """A size in bytes for display, such as ``1.5 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
