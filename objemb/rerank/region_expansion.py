"""Query expansion by the regions that matched (Jeong et al., "Regional deep feature aggregation", equation 8)."""

from __future__ import annotations

from objemb import checks
from objemb.registry import plugin
from objemb.rerank._database import Database
from objemb.rerank._expansion import unit_rows
from objemb.rerank._pairs import best_pairs
from objemb.rerank.base import Reranker, Search
from objemb.structures import RegionDescriptors, SearchResult


@plugin
class RegionExpansion(Reranker):
    """Searches again with the mean of the region vectors that matched best in the first hits.

    The new query is a single vector, ``l2(sum of the best row of each of the first hits)``, without the query's own
    vectors. Its box is the query box that matched the first hit.

    Args:
        top: N_QE, the number of hits that are used.
    """

    def __init__(self, *, top: int = 10) -> None:
        self.depth = self.top = checks.whole("top", top)

    def rerank(self, search: Search) -> Search:
        """See :meth:`Reranker.rerank`. A query that found nothing stays as it is."""
        pairs = zip(search.queries, search.results, strict=True)
        return search.again([self._expanded(q, r, search.database) for q, r in pairs], search.database)

    def _expanded(self, query: RegionDescriptors, result: SearchResult, database: Database) -> RegionDescriptors:
        rows = database.rows_of_images(result.images[: self.top])
        images, best_rows, query_rows, _ = best_pairs(rows, query)
        if not len(images):
            return query
        mean = unit_rows(rows.vectors[best_rows].sum(axis=0, keepdims=True))
        return RegionDescriptors(query.image, query.regions[int(query_rows[0])], mean, query.metadata)
