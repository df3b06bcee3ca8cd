"""Results ranked by diffusion on the nearest-neighbour graph of the database."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from objemb import checks
from objemb.registry import plugin
from objemb.rerank._database import DenseDatabase, as_boxes
from objemb.rerank._graph import diffuse, generalised_max_weights, laplacian, mutual_affinity, start_vector
from objemb.rerank._neighbours import row_neighbours
from objemb.rerank._pairs import all_similarities
from objemb.rerank.base import Reranker, Search, put_first
from objemb.structures import Match, RegionDescriptors, SearchResult
from objemb.types import Float32Array, Float64Array, Int64Array

if TYPE_CHECKING:
    from objemb.rerank._graph import csr_array

#: Numbers that are gathered at a time to weight regions.
NUMBERS = 1 << 24


@dataclass(frozen=True, eq=False)
class _Graph:
    """The part of diffusion that does not depend on queries.

    Attributes:
        affinity: Sparse ``(R, R)``.
        system: The linear system of the whole graph, ``(R, R)``, or None if every query has its own.
        weights: float64 ``(R,)``, the weight of each row in its image.
    """

    affinity: csr_array
    system: csr_array | None
    weights: Float64Array


@plugin
class Diffusion(Reranker):
    """Diffusion on the graph of mutual nearest neighbours, global or regional.

    Iscen, Tolias, Avrithis, Furon, Chum, Efficient diffusion on region manifolds, CVPR 2017. Similarity spreads from
    the rows nearest to the query to their neighbours, and so on, so that views are found that resemble the query only
    through other views. With one row per image (``neighbours`` 50, ``query_neighbours`` 10 in the paper) this is global
    diffusion; with several (200 and 200) it is regional, and the scores of an image's rows are pooled by generalised
    max pooling.

    Images that diffusion does not reach follow in their old order. Scores are not similarities; only their order is
    meaningful. A match has the row that contributes most, and the query row most similar to it. Needs SciPy.

    The graph is computed once per database, in time quadratic in the number of rows, except from 200,000 rows on, where
    neighbours are approximate; it takes up to 16 bytes x ``neighbours`` per row.

    Args:
        neighbours: k, at least 2; two rows are connected if each is among the k nearest of the other. As in the
            authors' code, a row is the first of its own neighbours: k = 50 leaves 49 others.
        query_neighbours: k_q, the number of rows that diffusion starts from.
        alpha: Share of similarity that is passed on, above 0 and below 1.
        gamma: Exponent of similarities.
        iterations: Maximum number of conjugate gradient steps.
        tolerance: Residual at which to stop, as a share of the start vector.
        truncate: Maximum number of rows to diffuse over, those nearest to the query (considering all its regions);
            None for all. The similarities among them are normalised again.
        ridge: lambda of the generalised max pooling.
    """

    depth = 1  # it selects rows itself
    scale = "similarity after diffusion; only the order is meaningful"

    def __init__(
        self,
        *,
        neighbours: int = 50,
        query_neighbours: int = 10,
        alpha: float = 0.99,
        gamma: float = 3.0,
        iterations: int = 20,
        tolerance: float = 1e-6,
        truncate: int | None = 10_000,
        ridge: float = 1.0,
    ) -> None:
        self.neighbours = checks.whole("neighbours", neighbours, 2)
        self.query_neighbours = checks.whole("query_neighbours", query_neighbours)
        self.alpha = checks.between("alpha", checks.positive("alpha", alpha), 0, 0.9999)
        self.gamma = checks.positive("gamma", gamma)
        self.iterations = checks.whole("iterations", iterations)
        self.tolerance = checks.positive("tolerance", tolerance)
        self.truncate = None if truncate is None else checks.whole("truncate", truncate)
        self.ridge = checks.positive("ridge", ridge)
        self._graphs: WeakKeyDictionary[DenseDatabase, _Graph] = WeakKeyDictionary()

    def rerank(self, search: Search) -> Search:
        """The images that diffusion reaches, by descending score, then the others."""
        database = search.database.dense()
        if not len(database.vectors):
            return search
        if database not in self._graphs:
            self._graphs[database] = self._graph(database)
        graph = self._graphs[database]
        pairs = zip(search.queries, search.results, strict=True)
        results = [self._ranked(database, graph, q, r) if len(q) else r for q, r in pairs]
        return replace(search, results=tuple(results))

    def _graph(self, database: DenseDatabase) -> _Graph:
        affinity = mutual_affinity(*row_neighbours(database, self.neighbours - 1, other_images=False), self.gamma)
        whole = self._most(database) == len(database.vectors)
        return _Graph(affinity, laplacian(affinity, self.alpha) if whole else None, self._weights(database))

    def _most(self, database: DenseDatabase) -> int:
        """Number of rows in the diffusion of a query."""
        count = len(database.vectors)
        return count if self.truncate is None else min(self.truncate, count)

    def _weights(self, database: DenseDatabase) -> Float64Array:
        """The weight of each row in its image, float64 ``(R,)``; images with equally many rows are solved together."""
        counts = np.diff(database.starts)
        weights = np.empty(len(database.vectors))
        for count in np.unique(counts[counts > 0]):
            starts = database.starts[:-1][counts == count]
            step = max(1, NUMBERS // (int(count) * max(1, database.dim)))
            for first in range(0, len(starts), step):
                rows = starts[first : first + step, None] + np.arange(count)
                weights[rows] = generalised_max_weights(database.vectors[rows], self.ridge)
        return weights

    def _ranked(
        self, database: DenseDatabase, graph: _Graph, query: RegionDescriptors, result: SearchResult
    ) -> SearchResult:
        products = all_similarities(database, query)
        rows, system = np.arange(len(products)), graph.system
        if system is None:
            rows = np.sort(np.argpartition(-products.max(axis=1), self._most(database))[: self._most(database)])
            system = laplacian(graph.affinity[rows][:, rows], self.alpha)
        start = start_vector(products[rows], self.query_neighbours, self.gamma)
        scores = diffuse(system, start, self.iterations, self.tolerance) * graph.weights[rows]
        return put_first(result, _matches(database, query, products, rows, scores))


def _matches(
    database: DenseDatabase,
    query: RegionDescriptors,
    products: Float32Array,
    rows: Int64Array,
    scores: Float64Array,
) -> list[Match]:
    """The images with a score above 0, by descending score.

    Args:
        database: R rows.
        query: Q rows.
        products: ``(R, Q)``.
        rows: ``(n,)``, ascending: the rows that have a score.
        scores: ``(n,)``, their scores, which are summed for each image.
    """
    items = database.items[rows]
    of_images = np.bincount(items, scores, minlength=len(database.images))
    ranked = np.argsort(-of_images, kind="stable")[: int(np.count_nonzero(of_images > 0))]
    order = np.lexsort((-scores, items))  # the best row of an image is its first
    best = rows[order[np.searchsorted(items[order], ranked)]]
    boxes = as_boxes(database.boxes[best].tolist())
    query_boxes = as_boxes(query.regions.boxes[products[best].argmax(axis=1)].tolist())
    images = (database.images[i] for i in ranked.tolist())
    columns = zip(images, of_images[ranked].tolist(), boxes, query_boxes, strict=True)
    return [Match(image, score, box, query_box) for image, score, box, query_box in columns]
