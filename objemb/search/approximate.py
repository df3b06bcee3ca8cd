"""Builds the structure for approximate search when an index is large enough, and rebuilds it when it is outdated."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from objemb.index.collection import ImageCollection

#: Rows added since the structure was built are searched exactly; above this share of all rows it is rebuilt.
REBUILD_SHARE = 0.25


def build_approximate(
    index: ImageCollection,
    engine: Mapping[str, object] | None = None,
    on_note: Callable[[str], None] = lambda text: None,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Build or rebuild the structure for approximate search of a large index; without one, search is exact.

    Args:
        index: The index. It is not changed if it is small or its structure covers nearly all of its rows.
        engine: Engine as for ``Index.build_structure``; None for that of the existing structure, or the default.
        on_note: Called with a message before the structure is built, and if it cannot be built.
        on_progress: As for ``Index.build_structure``.
    """
    from objemb.index import searcher

    facts = index.info()
    if facts["regions"] < searcher.APPROXIMATE_ROWS or facts["approximate_share"] >= 1 - REBUILD_SHARE:
        return
    on_note("building the structure for approximate search")
    try:
        index.build_structure(engine or index.engine, on_progress=on_progress)
    except (ImportError, ValueError) as error:  # without its library, or with vectors that it cannot hold
        on_note(f"note: search stays exact: {error}")
