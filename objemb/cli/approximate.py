"""The structure for approximate search, built where it pays off and built anew where it has fallen behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from objemb.cli.output import note

if TYPE_CHECKING:
    from objemb.index.store import Index

#: Rows added since the structure was built are searched exactly; above this share of all rows it is built anew.
REBUILD_SHARE = 0.25


def build_approximate(index: Index, kind: str | None = None) -> None:
    """Give a large index its structure for fast search, or a new one of the same kind; search is exact without."""
    from objemb.index import searcher

    facts = index.info()
    if facts["regions"] < searcher.APPROXIMATE_ROWS or facts["approximate_share"] >= 1 - REBUILD_SHARE:
        return
    note("building the structure for approximate search")
    try:
        index.build_structure(kind or facts["approximate"])
    except ImportError as error:
        note(f"note: search stays exact: {error}")
