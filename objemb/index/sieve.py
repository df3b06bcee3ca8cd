"""Keeps the few pairs that can still matter while all others stream by."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from objemb.index.blocks import RowTable
from objemb.index.grouping import Pairs, best_of_images, pair_scores

#: Rows that give the first floor, at least and per wanted image.
FLOOR_ROWS, FLOOR_ROWS_PER_IMAGE = 1 << 14, 32
#: Pairs that may wait at least before the sieve is shaken; else twice as many as the last shake left.
ROOM = 1 << 12
#: Pairs that may wait before they are scored exactly and cut down to the k best images.
MOST_WAITING = 1 << 20


class Sieve:
    """The candidates of a batch of query rows.

    For each query it knows a *floor*: a proven lower bound of the exact score of its k-th best image. A pair whose
    approximate score plus error bound stays below the floor cannot be among the results, and is dropped unseen.

    Args:
        table: The index rows, for exact scores.
        rows: float32 ``(C, D)`` query rows.
        queries: int64 ``(C,)``, non-decreasing: the query of each query row.
        k: Images per query.
    """

    def __init__(self, table: RowTable, rows: NDArray[np.float32], queries: NDArray[np.int64], k: int) -> None:
        self.table, self.rows, self.queries, self.k = table, rows, queries, k
        _, self.starts, self.query_of = np.unique(queries, return_index=True, return_inverse=True)
        self.floor = np.full(len(self.starts), -np.inf, dtype=np.float32)
        self.slack = np.zeros(len(rows), dtype=np.float32)
        self.waiting: list[Pairs] = []
        self.count, self.room = 0, ROOM

    def add(
        self,
        scores: Tensor,
        slack: Tensor,
        rows: slice | NDArray[np.int64],
        first: int,
        images: NDArray[np.int64],
    ) -> None:
        """Sift a chunk of n rows of a block.

        Args:
            scores: float32 ``(C, n)`` approximate scores; -inf for rows that may not be returned.
            slack: float32 ``(C,)``, no score is off by more.
            rows: The rows within the block.
            first: Number of the block's first row.
            images: int64 ``(n,)`` the images of the rows, equal ones adjacent.
        """
        values = scores.numpy()
        self.slack = np.maximum(self.slack, slack.numpy())
        if np.isneginf(self.floor).any():
            self._first_floor(values, images)
        cut = np.maximum(self.floor[self.query_of] - self.slack, np.finfo(np.float32).min)
        candidates = values >= cut[:, None]
        if np.isneginf(self.floor).any():
            candidates &= self._may_be_best_of_image(values, images)
        kept = np.flatnonzero(candidates)
        column, at = np.divmod(kept, values.shape[1])
        numbers = first + (at + rows.start if isinstance(rows, slice) else rows[at])
        self.waiting.append(Pairs(numbers, column, self.query_of[column], images[at], values.reshape(-1)[kept]))
        self.count += len(kept)
        if self.count > self.room:
            self._shake()

    def result(self) -> Pairs:
        """The best pair of each of the k best images of each query, with exact scores."""
        self._shake()
        best = self._exactly(self.waiting[0])
        return replace(best, queries=self.queries[self.starts][best.queries])

    def _first_floor(self, scores: NDArray[np.float32], images: NDArray[np.int64]) -> None:
        """The k-th best image among the first rows of a chunk, so that not all of its pairs have to wait."""
        most = max(FLOOR_ROWS, FLOOR_ROWS_PER_IMAGE * self.k)
        scores, images = scores[:, :most], images[:most]
        runs = np.flatnonzero(np.diff(images, prepend=images[:1] - 1))
        if len(runs) < self.k:
            return
        of_images = np.maximum.reduceat(scores - self.slack[:, None], runs, axis=1)
        of_images = np.maximum.reduceat(of_images, self.starts, axis=0)
        self._raise_floor(np.partition(of_images, -self.k, axis=1)[:, -self.k])

    def _may_be_best_of_image(self, scores: NDArray[np.float32], images: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Pairs that no other pair of the same image and query is proven to beat: bool ``(C, n)``.

        Of less than k images all are found, so that no floor rules out any; of each, one pair is enough.
        """
        runs = np.flatnonzero(np.diff(images, prepend=images[:1] - 1))
        proven = np.maximum.reduceat(scores - self.slack[:, None], runs, axis=1)
        proven = np.maximum.reduceat(proven, self.starts, axis=0)
        lengths = np.diff(runs, append=len(images))
        return scores + self.slack[:, None] >= np.repeat(proven, lengths, axis=1)[self.query_of]

    def _shake(self) -> None:
        """Raise the floors to the k-th best image among the waiting pairs, and drop the pairs that fall below."""
        pairs = Pairs.cat(self.waiting)
        slack = self.slack[pairs.query_rows]
        self._raise_floor(self._kth_best_image(pairs.queries, pairs.images, pairs.scores - slack))
        pairs = pairs[pairs.scores + slack >= self.floor[pairs.queries]]
        self.waiting = [pairs if len(pairs) <= MOST_WAITING else self._exactly(pairs)]
        self.count = len(self.waiting[0])
        self.room = max(ROOM, min(2 * self.count, MOST_WAITING))

    def _raise_floor(self, floor: NDArray[np.float32]) -> None:
        self.floor = np.maximum(self.floor, floor)

    def _kth_best_image(
        self, queries: NDArray[np.int64], images: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Per query the k-th largest of the best scores of its images; -inf with fewer than k images."""
        keys = images * len(self.floor) + queries
        order = np.argsort(keys)
        keys = keys[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        best = np.maximum.reduceat(scores[order], first) if len(first) else scores
        queries = keys[first] % len(self.floor)
        order = np.lexsort((-best, queries))
        ends = np.cumsum(np.bincount(queries, minlength=len(self.floor)))
        kth = np.concatenate([[0], ends[:-1]]) + self.k - 1
        found = np.full(len(self.floor), -np.inf, dtype=np.float32)
        enough = kth < ends
        found[enough] = best[order[kth[enough]]]
        return found

    def _exactly(self, pairs: Pairs) -> Pairs:
        """The k best images of each query by exact scores, with their best pairs."""
        scored = replace(pairs, scores=pair_scores(self.table, pairs.rows, self.rows, pairs.query_rows))
        best, place = best_of_images(scored)
        return best[place < self.k]
