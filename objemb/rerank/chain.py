"""Search, then one re-ranker after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from objemb.describers.base import Describer
from objemb.rerank.base import Reranker, Search
from objemb.rerank.database import Database
from objemb.structures import Photo, RegionDescriptors


def search_and_rerank(
    queries: Sequence[RegionDescriptors],
    database: Database,
    rerankers: Sequence[Reranker],
    depth: int,
    describer: Describer | None = None,
    open_query: Callable[[int], Photo] | None = None,
) -> Search:
    """Exact search, and the re-rankers in their order, each on what the one before it made.

    The results say on which scale the last re-ranker that gave scores gave them.

    Args:
        queries: The rows to search with.
        database: The rows to search.
        rerankers: What to do with the results; nothing is a normal case.
        depth: Least number of hits per result (where there are so many images); a re-ranker that wants more makes the
            results deeper, and they are not cut in the end.
        describer: What described both, for re-rankers that look into photos.
        open_query: Decodes the photo of a query by its number, likewise.
    """
    wanted = (len(database) if r.depth is None else r.depth for r in rerankers)
    first = tuple(database.search(queries, max(depth, *wanted, 1)))
    search = Search(tuple(queries), first, database, describer, open_query)
    for reranker in rerankers:
        before = [result.scale for result in search.results]
        search = reranker.rerank(search)
        scales = [reranker.scale or scale for scale in before]
        results = (replace(r, scale=scale) for r, scale in zip(search.results, scales, strict=True))
        search = replace(search, results=tuple(results))
    return search
