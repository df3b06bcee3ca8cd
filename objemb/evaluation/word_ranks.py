"""The places of given items in a ranking by visual words, computed by counting, and its first hits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import cached_property

import numpy as np

from objemb.evaluation.ranks import UNRANKED, RankedItems
from objemb.index.storage.visual_words import WordRows, in_memory
from objemb.index.words import WordBlock
from objemb.ops.word_matching import region_scores
from objemb.rerank.base import Reranker, WordSearch, rerank_words
from objemb.structures import Box, ImageWords, Match, SearchResult, VisualWords
from objemb.types import Float32Array, Int64Array


class WordRanking:
    """The complete rankings of queries in a database of visual words, by the scores of an inverted file.

    Args:
        database: The words of the database. Items are the indices of its images; those without rows are not ranked, and
            those without a common word have the score 0.
        queries: The words of the queries.
    """

    def __init__(self, database: ImageWords, queries: ImageWords) -> None:
        self.database, self.queries = database, queries
        kernel = replace(database.kernel, positions=False)
        self._schema = WordRows(dim=database.dim, items="regions", dtype="float32", **asdict(kernel))
        self._present = np.unique(database.items)

    @cached_property
    def _block(self) -> WordBlock:
        return in_memory(self._schema, list(self.database.described.values()))

    def ranked(self, wanted: Sequence[Int64Array]) -> list[RankedItems]:
        """The places of some items; ties are ordered by the number of the item.

        Args:
            wanted: The items for each query: int64, ascending, each once.
        """
        return [self._ranked(number, items) for number, items in enumerate(wanted)]

    def search(self, depth: int, rerankers: Sequence[Reranker] = ()) -> tuple[SearchResult, ...]:
        """At least the ``depth`` best items of each query, if there are so many, in the order of the re-rankers."""
        wanted = (len(self.database.images) if r.depth is None else r.depth for r in rerankers)
        most = max(depth, *wanted, 1)
        queries = [self.queries.words(number) for number in range(len(self.queries.images))]
        first = tuple(self._first(number, query, most) for number, query in enumerate(queries))
        numbers = {image: number for number, image in enumerate(self.database.images)}
        search = WordSearch(tuple(queries), first, lambda image: self.database.words(numbers[image]))
        return rerank_words(search, rerankers).results

    def _ranked(self, number: int, wanted: Int64Array) -> RankedItems:
        items, scores, rows, query_rows = self._scores(number)
        places = np.full(len(wanted), UNRANKED, dtype=np.int64)
        best, boxes = (
            np.full(len(wanted), -np.inf, dtype=np.float32),
            np.full((len(wanted), 4), np.nan, np.float32),
        )
        order = np.lexsort((items, -scores))
        place = np.empty_like(order)
        place[order] = np.arange(len(order))
        at = np.searchsorted(items, wanted)
        there = np.flatnonzero(np.isin(wanted, items))
        places[there], best[there] = place[at[there]], scores[at[there]]
        for n in there.tolist():
            boxes[n] = self._box(number, int(wanted[n]), int(rows[at[n]]), int(query_rows[at[n]]))
        return RankedItems(wanted, places, best, boxes)

    def _first(self, number: int, query: VisualWords, depth: int) -> SearchResult:
        """The best items of a query, with the regions that matched; items without a common word are left out."""
        items, scores, rows, query_rows = self._scores(number)
        asked = [_box(box) for box in query.regions.boxes]
        best = [n for n in np.lexsort((items, -scores))[:depth].tolist() if scores[n] > 0]
        hits = tuple(
            Match(
                self.database.images[int(items[n])],
                float(scores[n]),
                _box(self._box(number, int(items[n]), int(rows[n]), int(query_rows[n]))),
                asked[int(query_rows[n])],
            )
            for n in best
        )
        return SearchResult(self.queries.images[number], tuple(asked), hits, WordRows.scale)

    def _scores(self, number: int) -> tuple[Int64Array, Float32Array, Int64Array, Int64Array]:
        """Items that have rows, ascending, with the score of each and the row and query row of this score; empty for a
        query without rows."""
        query, none = self.queries.words(number), np.zeros(0, np.int64)
        if not len(query) or not len(self._present):
            return none, np.zeros(0, np.float32), none, none
        asked = self._schema.queries([query])
        scores = np.stack([self._block.scores(asked, row) for row in range(len(query))])
        query_rows = scores.argmax(axis=0)
        best = scores.max(axis=0)
        order = np.lexsort((-best, self.database.items))
        rows = order[np.searchsorted(self.database.items, self._present)]
        return self._present, best[rows], rows, query_rows[rows]

    def _box(self, number: int, item: int, row: int, query_row: int) -> Float32Array:
        """The matched box of an item: the region with the highest score, if the positions of its features are known."""
        stored = self.database.described[item]
        if stored.places is not None:
            scores = region_scores(self.queries.described[number], query_row, stored, self.database.kernel)
            if scores.max(initial=0) > 0:
                boxes: Float32Array = stored.regions.boxes[int(scores.argmax())]
                return boxes
        matched: Float32Array = self.database.boxes[row]
        return matched


def _box(edges: Float32Array) -> Box:
    x1, y1, x2, y2 = edges.tolist()
    return (x1, y1, x2, y2)
