"""Builds the structure for approximate search when an index is large enough, and rebuilds it when it is outdated."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from objemb.index.store import Index

#: Rows added since the structure was built are searched exactly; above this share of all rows it is rebuilt.
REBUILD_SHARE = 0.25


def build_approximate(
    index: Index, kind: str | None = None, on_note: Callable[[str], None] = lambda text: None
) -> None:
    """Build or rebuild the structure for approximate search of a large index; without one, search is exact.

    Args:
        index: The index. It is not changed if it is small or its structure covers nearly all of its rows.
        kind: Engine as for ``Index.build_structure``; None for the engine of the existing structure, or the default.
        on_note: Called with a message before the structure is built, and if it cannot be built.
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
