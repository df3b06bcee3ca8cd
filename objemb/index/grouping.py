"""From pairs of rows to images: exact scores of pairs, the best pair of each image, the best images of each query."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from objemb.index.blocks import NO_HIT, GroupedHits, RowTable

#: Numbers that are gathered at once to score pairs; few enough for the processor's cache.
NUMBERS_PER_STEP = 1 << 16


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

    rows: NDArray[np.int64]
    query_rows: NDArray[np.int64]
    queries: NDArray[np.int64]
    images: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: NDArray) -> Pairs:
        return Pairs(*(column[index] for column in self._columns()))

    @staticmethod
    def cat(parts: list[Pairs]) -> Pairs:
        """All pairs of the parts, in order."""
        if not parts:
            empty = np.empty(0, dtype=np.int64)
            return Pairs(empty, empty, empty, empty, np.empty(0, dtype=np.float32))
        return Pairs(*(np.concatenate(columns) for columns in zip(*(p._columns() for p in parts), strict=True)))

    def _columns(self) -> tuple[NDArray, ...]:
        return self.rows, self.query_rows, self.queries, self.images, self.scores


def pair_scores(
    table: RowTable, rows: NDArray[np.int64], queries: NDArray[np.float32], query_rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Inner products of pairs, summed in float64 and rounded once.

    The result depends on the two vectors alone, neither on their position nor on the number of threads, so that equal
    rows tie exactly.

    Args:
        table: The index rows.
        rows: int64 ``(P,)`` index rows.
        queries: float32 ``(R, D)``.
        query_rows: int64 ``(P,)`` rows of ``queries``.
    """
    scores = np.empty(len(rows), dtype=np.float32)
    right = queries.astype(np.float64)
    step = max(1, NUMBERS_PER_STEP // max(1, queries.shape[1]))
    for start in range(0, len(rows), step):
        here = slice(start, start + step)
        left = table.vectors(rows[here]).astype(np.float64)
        scores[here] = np.einsum("pd,pd->p", left, right[query_rows[here]])
    return scores


def rank(pairs: Pairs) -> NDArray[np.int64]:
    """Order of pairs: by query, then falling score; equal scores by lower row, then lower query row."""
    return np.lexsort((pairs.query_rows, pairs.rows, -pairs.scores, pairs.queries))


def best_of_images(pairs: Pairs) -> tuple[Pairs, NDArray[np.int64]]:
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


def places(queries: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each entry within its run of equal, sorted ``queries``: 0, 1, 2, then from 0 again."""
    return np.arange(len(queries)) - np.searchsorted(queries, queries)


def top_images(pairs: Pairs, count: int, k: int) -> GroupedHits:
    """The ``k`` best images of queries 0 to ``count - 1``."""
    best, place = best_of_images(pairs)
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
