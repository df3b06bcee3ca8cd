"""Query expansion by the regions that matched (Jeong et al., "Regional deep feature aggregation", equation 8)."""

from __future__ import annotations

from objemb import checks
from objemb.registry import plugin
from objemb.rerank._database import Database
from objemb.rerank._expansion import unit_rows
from objemb.rerank._pairs import best_pair, similarities
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
        images = [hit.image for hit in result.hits[: self.top]]
        rows = database.rows_of_images(images)
        products = zip(rows.starts.tolist(), similarities(rows, query), strict=False)
        pairs = [(start, best_pair(of_image)) for start, of_image in products if of_image.size]
        if not pairs:
            return query
        matched = rows.vectors[[start + row for start, (row, _) in pairs]]
        mean = unit_rows(matched.sum(axis=0, keepdims=True))
        _, (_, first) = pairs[0]
        return RegionDescriptors(query.image, query.regions[first], mean, query.metadata)
