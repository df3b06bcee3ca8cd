"""The structure for approximate search, built where it pays off and built anew where it has fallen behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from objemb.index.store import Index

#: Rows added since the structure was built are searched exactly; above this share of all rows it is built anew.
REBUILD_SHARE = 0.25


def build_approximate(
    index: Index, kind: str | None = None, on_note: Callable[[str], None] = lambda text: None
) -> None:
    """Give a large index its structure for fast search, or a new one of the same kind; search is exact without.

    Args:
        index: A small one, or one whose structure covers nearly all of its rows, is left alone.
        kind: As for ``Index.build_structure``; None for the engine that the index has, or the default.
        on_note: Called with a line for people before the structure is built, and where it cannot be built.
    """
    from objemb.index import searcher

    facts = index.info()
    if facts["regions"] < searcher.APPROXIMATE_ROWS or facts["approximate_share"] >= 1 - REBUILD_SHARE:
        return
    on_note("building the structure for approximate search")
    try:
        index.build_structure(kind or facts["approximate"])
    except ImportError as error:
        on_note(f"note: search stays exact: {error}")
