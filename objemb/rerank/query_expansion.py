"""Query expansion: a new search with queries averaged with their first hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from objemb import checks
from objemb.registry import plugin
from objemb.rerank._database import Database
from objemb.rerank._expansion import mean_with_neighbours, similarity_weights
from objemb.rerank._pairs import best_pairs, query_vectors
from objemb.rerank.base import Reranker, Search
from objemb.structures import RegionDescriptors


@plugin
class QueryExpansion(Reranker):
    """Average and alpha-weighted query expansion (AQE, alpha-QE).

    AQE: Chum, Philbin, Sivic, Isard, Zisserman, Total recall, ICCV 2007, here on global or region vectors. alpha-QE:
    Radenovic, Tolias, Chum, Fine-tuning CNN image retrieval with no human annotation, TPAMI 2018, who use ``top`` 50
    and ``alpha`` 3. R-MAC uses AQE with 5, CroW and CAM with 10 (they sum, which is the same after normalisation),
    DIR with 1 and without normalisation.

    The best-matching row of each hit is averaged with the query row that it matched. Query boxes of different objects
    thus stay separate, and a photo with many regions contributes only the relevant one.

    Args:
        top: Number of first hits that are averaged with the query.
        alpha: 0 for equal weights (AQE), otherwise the exponent of the similarity (alpha-QE), with weight 0 for
            negative ones. The query itself has weight 1.
        normalise: Whether to normalise the weighted mean.
    """

    def __init__(self, *, top: int = 5, alpha: float = 0.0, normalise: bool = True) -> None:
        self.depth = self.top = checks.whole("top", top)
        self.alpha = checks.between("alpha", alpha, 0, 100)
        self.normalise = checks.flag("normalise", normalise)

    def rerank(self, search: Search) -> Search:
        """The search with the expanded queries."""
        pairs = zip(search.queries, search.results, strict=True)
        expanded = (self._expand(search.database, query, result.images[: self.top]) for query, result in pairs)
        return search.again(expanded, search.database)

    def _expand(self, database: Database, query: RegionDescriptors, images: Sequence[str]) -> RegionDescriptors:
        if not len(query):
            return query
        rows = database.rows_of_images(images)
        of_images, best_rows, query_rows, products = best_pairs(rows, query)
        weights = np.zeros((len(query), len(images)), dtype=np.float32)
        neighbours = np.zeros((len(images), database.dim), dtype=np.float32)
        neighbours[of_images] = rows.vectors[best_rows]
        weights[query_rows, of_images] = similarity_weights(products, self.alpha)
        mixed = mean_with_neighbours(query_vectors(query), neighbours[None], weights, normalise=self.normalise)
        return replace(query, vectors=mixed)
