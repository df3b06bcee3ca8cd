"""The places of given items in a ranking, computed by counting, without sorting the whole ranking.

The place of an item is the number of items with a higher score; ties are ordered by the number of the item. It is
therefore enough to compute all scores once, block by block, and to count. Places depend neither on the size of the
blocks nor on threads: the scores of a block, from one matrix product in float64, are compared where they differ by more
than the rounding error, and the few others are computed again, pair by pair, as in
:func:`objemb.index.engines.exact.search_exact`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from objemb.index.storage.blocks import RowTable, VectorBlock, pair_scores
from objemb.ops.scored_pairs import Pairs, best_of_images
from objemb.structures import ImageRows
from objemb.types import Float32Array, Float64Array, Int64Array

#: The place of an item without rows, or of any item for a query without rows.
UNRANKED = -1
#: Number of query rows that share one pass over the database.
QUERY_ROWS_PER_PASS = 256
#: Numbers in a block of the database, which limits the memory.
NUMBERS_PER_BLOCK = 1 << 22


@dataclass(frozen=True, eq=False)
class RankedItems:
    """The places of some items in the complete ranking of one query.

    Attributes:
        items: int64 ``(L,)``, ascending.
        places: int64 ``(L,)``, from 0; ``UNRANKED`` for an item without rows.
        scores: float32 ``(L,)``, the largest inner product of a row of the item and a row of the query; -inf for an
            item without rows.
        boxes: float32 ``(L, 4)``, xyxy in original pixels, of the row that matched best; NaN for an item without rows.
    """

    items: Int64Array
    places: Int64Array
    scores: Float32Array
    boxes: Float32Array

    def of(self, items: Int64Array) -> RankedItems:
        """The places of some of the items, in the given order; all of them have to be among :attr:`items`."""
        at = np.searchsorted(self.items, items)
        return RankedItems(items, self.places[at], self.scores[at], self.boxes[at])

    def ranks(self, positives: Int64Array, junk: Int64Array) -> Int64Array:
        """int64, ascending: the 0-based ranks of those positives that have a place, in a ranking without the junk.

        Args:
            positives: int64 ``(P,)``, among :attr:`items`; none of them is junk.
            junk: int64 ``(J,)``, among :attr:`items`.
        """
        places, junk_places = (np.sort(self.of(part).places) for part in (positives, junk))
        places, junk_places = places[places != UNRANKED], junk_places[junk_places != UNRANKED]
        return np.asarray(places - np.searchsorted(junk_places, places), dtype=np.int64)

    def behind(self, first: Int64Array, boxes: Float32Array) -> RankedItems:
        """The same items with ``first`` moved to the front, in the given order; all others keep their order.

        Args:
            first: int64 ``(K,)``, each once, among :attr:`items`.
            boxes: float32 ``(K, 4)``, their matched boxes, xyxy in original pixels.
        """
        moved = np.searchsorted(self.items, first)
        overtaken = np.sort(self.places[moved])
        places = self.places + len(first) - np.searchsorted(overtaken, self.places)
        places[self.places == UNRANKED] = UNRANKED
        places[moved] = np.arange(len(first))
        at = self.boxes.copy()
        at[moved] = boxes
        return RankedItems(self.items, places, self.scores, at)


def rank_items(database: ImageRows, queries: ImageRows, wanted: Sequence[Int64Array]) -> list[RankedItems]:
    """The places of the wanted items for each query, in one pass over the database per 256 query rows.

    Args:
        database: The rows of the database, of length 1 or less. Items are the indices of its images.
        queries: The rows of the queries.
        wanted: For each query, the items whose places to compute: int64, ascending, each once.

    Returns:
        The places for each query.
    """
    table = RowTable([VectorBlock(database.vectors, database.items)])
    asked = (queries.vectors[first:behind] for first, behind in pairwise(queries.starts.tolist()))
    counters = [_RankCounter(table, database, rows, items) for rows, items in zip(asked, wanted, strict=True)]
    for some in _passes([c for c in counters if len(c.queries) and len(c.scores)]):
        _count(database, some)
    return [counter.result() for counter in counters]


class _RankCounter:
    """Counts, for one query, the items that come before each of the wanted items.

    Attributes:
        queries: float32 ``(r, D)``, the rows of the query.
        scores: float64 ``(P,)``, exact scores of the wanted items that have rows, ascending.
    """

    def __init__(self, table: RowTable, database: ImageRows, queries: Float32Array, wanted: Int64Array) -> None:
        self.queries = queries
        self._table, self._database, self._wanted = table, database, wanted
        best = self._best(wanted if len(queries) else wanted[:0])
        order = np.lexsort((-best.images, best.scores))
        self._items = best.images[order]
        self._float_scores = best.scores[order]
        self._boxes = database.boxes[best.rows[order]]
        self.scores = self._float_scores.astype(np.float64)
        self._before = np.zeros(len(order), dtype=np.int64)

    def add(self, items: Int64Array, scores: Float64Array, slack: float) -> None:
        """Count items of a block.

        Args:
            items: int64 ``(m,)``.
            scores: float64 ``(m,)``, the score of each, with an error of at most ``slack``.
            slack: Bound of the rounding error.
        """
        margin = np.spacing(np.abs(self._float_scores)).astype(np.float64) + slack
        greater = np.searchsorted(self.scores + margin, scores, side="left")
        perhaps = np.searchsorted(self.scores - margin, scores, side="right")
        counts = np.bincount(greater, minlength=len(self.scores) + 1)
        unsure = np.flatnonzero(greater != perhaps)
        if len(unsure):
            counts -= np.bincount(greater[unsure], minlength=len(counts))
            exact = self._best(items[unsure])
            tie = exact.scores[:, None] == self._float_scores
            ahead = (exact.scores[:, None] > self._float_scores) | (tie & (exact.images[:, None] < self._items))
            self._before += ahead.sum(axis=0)
        self._before += counts.sum() - np.cumsum(counts)[:-1]

    def result(self) -> RankedItems:
        """The result, after all blocks were added."""
        count = len(self._wanted)
        places, scores = np.full(count, UNRANKED, dtype=np.int64), np.full(count, -np.inf, dtype=np.float32)
        boxes = np.full((count, 4), np.nan, dtype=np.float32)
        at = np.searchsorted(self._wanted, self._items)
        places[at], scores[at], boxes[at] = self._before, self._float_scores, self._boxes
        return RankedItems(self._wanted, places, scores, boxes)

    def _best(self, items: Int64Array) -> Pairs:
        """The best pair of rows, with its exact score, of each item that has rows, in no particular order."""
        rows = self._database.rows_of(items)
        pair_rows = np.repeat(rows, len(self.queries))
        query_rows = np.tile(np.arange(len(self.queries)), len(rows))
        scores = pair_scores(self._table, pair_rows, self.queries, query_rows)
        one = np.zeros(len(pair_rows), dtype=np.int64)
        return best_of_images(Pairs(pair_rows, query_rows, one, self._table.images(pair_rows), scores))[0]


def _passes(counters: Sequence[_RankCounter]) -> Iterator[list[_RankCounter]]:
    """Groups of consecutive queries with about ``QUERY_ROWS_PER_PASS`` rows."""
    some: list[_RankCounter] = []
    for counter in counters:
        if some and sum(len(c.queries) for c in some) + len(counter.queries) > QUERY_ROWS_PER_PASS:
            yield some
            some = []
        some.append(counter)
    if some:
        yield some


def _count(database: ImageRows, counters: Sequence[_RankCounter]) -> None:
    """One pass over the database."""
    asked = np.concatenate([c.queries for c in counters]).astype(np.float64)
    groups = np.cumsum([0, *(len(c.queries) for c in counters)])[:-1]
    longest = float(np.linalg.norm(asked, axis=1).max())
    for items, starts in _blocks(database):
        block = database.vectors[starts[0] : starts[-1]].astype(np.float64)
        scores = np.maximum.reduceat(asked @ block.T, groups, axis=0)
        if len(block) > len(items):
            scores = np.maximum.reduceat(scores, starts[:-1] - starts[0], axis=1)
        length = float(np.sqrt(np.einsum("nd,nd->n", block, block).max()))
        slack = 2 * longest * length * block.shape[1] * float(np.finfo(np.float64).eps)
        for counter, row in zip(counters, scores, strict=True):
            counter.add(items, row, slack)


def _blocks(database: ImageRows) -> Iterator[tuple[Int64Array, Int64Array]]:
    """Blocks of consecutive items with about ``NUMBERS_PER_BLOCK`` numbers: int64 ``(m,)``, the items that have rows,
    and int64 ``(m + 1,)``, the first row of each and the end of the last."""
    size = max(1, NUMBERS_PER_BLOCK // max(1, database.dim))
    present = np.flatnonzero(np.diff(database.starts))
    starts = np.append(database.starts[present], len(database.vectors))
    first = 0
    while first < len(present):
        fitting = int(np.searchsorted(starts, starts[first] + size, side="right")) - 1
        last = min(max(fitting, first + 1), len(present))
        yield present[first:last], starts[first : last + 1]
        first = last
