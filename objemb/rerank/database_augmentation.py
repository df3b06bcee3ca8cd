"""Database augmentation: a new search in rows averaged with their neighbours."""

from __future__ import annotations

from dataclasses import replace
from weakref import WeakKeyDictionary

import numpy as np

from objemb import checks
from objemb.ops.scored_pairs import NO_HIT
from objemb.registry import plugin
from objemb.rerank._database import DenseDatabase
from objemb.rerank._expansion import mean_with_neighbours, rank_weights, similarity_weights
from objemb.rerank._neighbours import row_neighbours
from objemb.rerank.base import Reranker, Search

#: Weightings of neighbours.
WEIGHTS = ("rank", "similarity")
#: Numbers that are gathered at a time.
NUMBERS = 1 << 24


@plugin
class DatabaseAugmentation(Reranker):
    """Database-side feature augmentation (DBA, alpha-DBA).

    Every row becomes the weighted mean of itself, with weight 1, and the nearest rows of *other* images. ``rank``:
    Gordo et al., End-to-end learning of deep visual representations for image retrieval, IJCV 2017, with 20
    neighbours, not normalised. ``similarity``: alpha-DBA, the weights of alpha-QE; with ``alpha`` 0 the plain mean.

    The augmented rows need as much memory as the vectors of the database, and are computed once per database, in time
    quadratic in the number of rows, except from 200,000 rows on, where neighbours are approximate.

    Args:
        top: Neighbours per row.
        weights: ``rank`` or ``similarity``.
        alpha: Exponent of the similarity, for ``similarity``.
        normalise: Whether to normalise the weighted means.
    """

    depth = 1  # the others decide on the depth

    def __init__(self, *, top: int = 20, weights: str = "rank", alpha: float = 3.0, normalise: bool = False) -> None:
        self.top = checks.whole("top", top)
        self.weights = checks.one_of("weights", weights, WEIGHTS)
        self.alpha = checks.between("alpha", alpha, 0, 100)
        self.normalise = checks.flag("normalise", normalise)
        self._made: WeakKeyDictionary[DenseDatabase, DenseDatabase] = WeakKeyDictionary()

    def rerank(self, search: Search) -> Search:
        """The same queries in the augmented database."""
        database = search.database.dense()
        if database not in self._made:
            self._made[database] = self._augmented(database)
        return search.again(search.queries, self._made[database])

    def _augmented(self, database: DenseDatabase) -> DenseDatabase:
        rows, similarities = row_neighbours(database, self.top, other_images=True)
        weights = rank_weights(similarities) if self.weights == "rank" else similarity_weights(similarities, self.alpha)
        vectors = np.empty(database.vectors.shape, dtype=np.float32)
        step = max(1, NUMBERS // (self.top * max(1, database.dim)))
        for start in range(0, len(vectors), step):
            here = slice(start, start + step)
            near = database.vectors[np.where(rows[here] == NO_HIT, 0, rows[here])]  # the weight of no row is 0
            vectors[here] = mean_with_neighbours(database.vectors[here], near, weights[here], normalise=self.normalise)
        return replace(database, vectors=vectors)
