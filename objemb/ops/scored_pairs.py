"""Scored pairs of an index row and a query row: their order, the best pair of each image, the best images of queries.

All engines use this, so that ties are broken alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from objemb.types import AnyArray, Float32Array, Int64Array

#: Score, row and query row of a pair.
ScoredPair: TypeAlias = tuple[float, int, int]
#: Fills the places of ``GroupedHits`` for which there was no image.
NO_HIT = -1


def with_next_best(best: ScoredPair, scores: Float32Array, first_row: int, count: int) -> list[ScoredPair]:
    """The best pair of an image, then those of the largest scores above -inf; of equal ones the first.

    Args:
        best: The best pair, which is not given twice; no other score is above its own.
        scores: float32 ``(n, q)``, of all pairs of the image; changed.
        first_row: Number of the first of the n rows.
        count: How many more at most.
    """
    score, row, query_row = best
    scores[row - first_row, query_row] = -np.inf
    flat = scores.ravel()
    order = np.argsort(-flat, kind="stable")[:count]
    rows, query_rows = np.unravel_index(order[flat[order] > -np.inf], scores.shape)
    others = zip(rows.tolist(), query_rows.tolist(), strict=True)
    return [best, *((min(float(scores[r, q]), score), first_row + r, q) for r, q in others)]


@dataclass(frozen=True, eq=False)
class GroupedHits:
    """The best images of Q queries, best first, each image once.

    Attributes:
        images: int64 ``(Q, k)`` internal images, ``NO_HIT`` where there was none.
        scores: float32 ``(Q, k)``, of the best pair of a row of the image and a row of the query; -inf.
        rows: int64 ``(Q, k)``, position of the matched row counted through all blocks in order; ``NO_HIT``.
        query_rows: int64 ``(Q, k)``, position of the query row that it matched; ``NO_HIT``.
    """

    images: Int64Array
    scores: Float32Array
    rows: Int64Array
    query_rows: Int64Array

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of an index row and a query row; all fields have one entry per pair.

    Attributes:
        rows: int64, position of the index row through all blocks.
        query_rows: int64, position of the query row.
        queries: int64, the query that the query row belongs to.
        images: int64, the image that the index row belongs to.
        scores: float32, larger is more similar.
    """

    rows: Int64Array
    query_rows: Int64Array
    queries: Int64Array
    images: Int64Array
    scores: Float32Array

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: AnyArray) -> Pairs:
        return Pairs(*(column[index] for column in self._columns()))

    @staticmethod
    def cat(parts: list[Pairs]) -> Pairs:
        """All pairs of the parts, in order."""
        if not parts:
            empty = np.empty(0, dtype=np.int64)
            return Pairs(empty, empty, empty, empty, np.empty(0, dtype=np.float32))
        return Pairs(*(np.concatenate(columns) for columns in zip(*(p._columns() for p in parts), strict=True)))

    def _columns(self) -> tuple[AnyArray, ...]:
        return self.rows, self.query_rows, self.queries, self.images, self.scores


def rank(pairs: Pairs) -> Int64Array:
    """Order of pairs: by query, then falling score; equal scores by lower row, then lower query row."""
    order = np.argsort(-pairs.scores)
    if len(order) and pairs.queries.min() < pairs.queries.max():
        order = order[pairs.queries[order].argsort(kind="stable")]
    scores, queries = pairs.scores[order], pairs.queries[order]
    if ((scores[1:] == scores[:-1]) & (queries[1:] == queries[:-1])).any():  # seldom, and several times as slow
        order = np.lexsort((pairs.query_rows, pairs.rows, -pairs.scores, pairs.queries))
    return order


def best_of_images(pairs: Pairs) -> tuple[Pairs, Int64Array]:
    """The best pair of every image of every query.

    Returns:
        The pairs, ranked as :func:`rank` does, and int64 the place of each within its query, from 0.
    """
    ranked = pairs[rank(pairs)]
    by_image = np.lexsort((ranked.images, ranked.queries))  # stable: the best pair of an image stays its first
    queries, images = ranked.queries[by_image], ranked.images[by_image]
    first = np.ones(len(by_image), dtype=bool)
    first[1:] = (queries[1:] != queries[:-1]) | (images[1:] != images[:-1])
    best = ranked[np.sort(by_image[first])]
    return best, places(best.queries)


def places(queries: Int64Array) -> Int64Array:
    """Place of each entry within its run of equal, sorted ``queries``: 0, 1, 2, then from 0 again."""
    return np.arange(len(queries)) - np.searchsorted(queries, queries)


def top_images(pairs: Pairs, count: int, k: int) -> GroupedHits:
    """The ``k`` best images of queries 0 to ``count - 1``."""
    best, _ = best_of_images(pairs)
    return as_hits(best, count, k)


def as_hits(best: Pairs, count: int, k: int) -> GroupedHits:
    """The ``k`` best images of queries 0 to ``count - 1``, from the ranked best pairs of their images."""
    place = places(best.queries)
    kept = place < k
    best, at = best[kept], (best.queries[kept], place[kept])
    hits = GroupedHits(
        images=np.full((count, k), NO_HIT, dtype=np.int64),
        scores=np.full((count, k), -np.inf, dtype=np.float32),
        rows=np.full((count, k), NO_HIT, dtype=np.int64),
        query_rows=np.full((count, k), NO_HIT, dtype=np.int64),
    )
    hits.images[at], hits.scores[at] = best.images, best.scores
    hits.rows[at], hits.query_rows[at] = best.rows, best.query_rows
    return hits


def pairs_of(hits: GroupedHits) -> Pairs:
    """The pairs behind hits, without the empty places; :func:`top_images` reverses it."""
    queries, _ = found = np.nonzero(hits.images != NO_HIT)
    return Pairs(hits.rows[found], hits.query_rows[found], queries, hits.images[found], hits.scores[found])
