"""Top-k selection over a stream of approximate scores: pairs that provably cannot be among the results are dropped."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from objemb.index.blocks import Pairs, RowTable, best_of_images, pair_scores
from objemb.types import BoolArray, Float32Array, Int64Array

#: Rows from which the first lower bound is taken, at least and per wanted image.
BOUND_ROWS, BOUND_ROWS_PER_IMAGE = 1 << 14, 32
#: Minimum number of pending pairs before pruning; otherwise twice the survivors of the last pruning.
CAPACITY = 1 << 12
#: Number of pending pairs from which pruning scores them exactly and keeps the k best images only.
MOST_PENDING = 1 << 20


class TopK:
    """The k best images of each query of a batch of query rows.

    For each query it keeps a lower bound of the exact score of its k-th best image. A pair whose approximate score plus
    error bound is below it cannot be among the results and is dropped. The others are *pending* until they are pruned
    or, at the end, scored exactly.

    Args:
        table: The index rows, for exact scores.
        rows: float32 ``(C, D)`` query rows.
        queries: int64 ``(C,)``, non-decreasing: the query of each query row.
        k: Images per query.
    """

    def __init__(self, table: RowTable, rows: Float32Array, queries: Int64Array, k: int) -> None:
        self._table, self._rows, self._queries, self._k = table, rows, queries, k
        _, self._starts, self._query_of = np.unique(queries, return_index=True, return_inverse=True)
        self._lower_bound = np.full(len(self._starts), -np.inf, dtype=np.float32)
        self._slack = np.zeros(len(rows), dtype=np.float32)
        self._pending: list[Pairs] = []
        self._count, self._capacity = 0, CAPACITY

    def add(
        self,
        scores: Float32Array,
        slack: Float32Array,
        rows: slice | Int64Array,
        first: int,
        images: Int64Array,
    ) -> None:
        """Take the pairs of a chunk of n rows of a block with all query rows.

        Args:
            scores: float32 ``(C, n)`` approximate scores; -inf for rows that may not be returned.
            slack: float32 ``(C,)``, no score is off by more.
            rows: The rows within the block.
            first: Number of the block's first row.
            images: int64 ``(n,)`` the images of the rows, equal ones adjacent.
        """
        self._slack = np.maximum(self._slack, slack)
        if np.isneginf(self._lower_bound).any():
            self._first_lower_bound(scores, images)
        least = np.maximum(self._lower_bound[self._query_of] - self._slack, np.finfo(np.float32).min)
        candidates = scores >= least[:, None]
        if np.isneginf(self._lower_bound).any():
            candidates &= self._may_be_best_of_image(scores, images)
        kept = np.flatnonzero(candidates)
        column, at = np.divmod(kept, scores.shape[1])
        numbers = first + (at + rows.start if isinstance(rows, slice) else rows[at])
        self._pending.append(Pairs(numbers, column, self._query_of[column], images[at], scores.reshape(-1)[kept]))
        self._count += len(kept)
        if self._count > self._capacity:
            self._prune()

    def result(self) -> Pairs:
        """The best pair of each of the k best images of each query, with exact scores."""
        self._prune()
        best = self._exactly(self._pending[0])
        return replace(best, queries=self._queries[self._starts][best.queries])

    def _first_lower_bound(self, scores: Float32Array, images: Int64Array) -> None:
        """The k-th best image among the first rows of a chunk, so that not all of its pairs become pending."""
        most = max(BOUND_ROWS, BOUND_ROWS_PER_IMAGE * self._k)
        scores, images = scores[:, :most], images[:most]
        runs = np.flatnonzero(np.diff(images, prepend=images[:1] - 1))
        if len(runs) < self._k:
            return
        of_images = np.maximum.reduceat(scores - self._slack[:, None], runs, axis=1)
        of_images = np.maximum.reduceat(of_images, self._starts, axis=0)
        self._raise_lower_bound(np.partition(of_images, -self._k, axis=1)[:, -self._k])

    def _may_be_best_of_image(self, scores: Float32Array, images: Int64Array) -> BoolArray:
        """Pairs that no other pair of the same image and query is proven to beat: bool ``(C, n)``.

        With fewer than k images every image is a result, so that no lower bound rules out any; of each, one pair is
        enough.
        """
        runs = np.flatnonzero(np.diff(images, prepend=images[:1] - 1))
        proven = np.maximum.reduceat(scores - self._slack[:, None], runs, axis=1)
        proven = np.maximum.reduceat(proven, self._starts, axis=0)
        lengths = np.diff(runs, append=len(images))
        return scores + self._slack[:, None] >= np.repeat(proven, lengths, axis=1)[self._query_of]

    def _prune(self) -> None:
        """Raise the lower bounds to the k-th best image among the pending pairs, and drop the pairs below them."""
        pairs = Pairs.cat(self._pending)
        slack = self._slack[pairs.query_rows]
        self._raise_lower_bound(self._kth_best_image(pairs.queries, pairs.images, pairs.scores - slack))
        pairs = pairs[pairs.scores + slack >= self._lower_bound[pairs.queries]]
        self._pending = [pairs if len(pairs) <= MOST_PENDING else self._exactly(pairs)]
        self._count = len(self._pending[0])
        self._capacity = max(CAPACITY, min(2 * self._count, MOST_PENDING))

    def _raise_lower_bound(self, lower_bound: Float32Array) -> None:
        self._lower_bound = np.maximum(self._lower_bound, lower_bound)

    def _kth_best_image(self, queries: Int64Array, images: Int64Array, scores: Float32Array) -> Float32Array:
        """Per query the k-th largest of the best scores of its images; -inf with fewer than k images."""
        count = len(self._lower_bound)
        keys = images * count + queries
        order = np.argsort(keys)
        keys = keys[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        best = np.maximum.reduceat(scores[order], first) if len(first) else scores
        queries = keys[first] % count
        order = np.lexsort((-best, queries))
        ends = np.cumsum(np.bincount(queries, minlength=count))
        kth = np.concatenate([[0], ends[:-1]]) + self._k - 1
        scores_of_kth = np.full(count, -np.inf, dtype=np.float32)
        enough = kth < ends
        scores_of_kth[enough] = best[order[kth[enough]]]
        return scores_of_kth

    def _exactly(self, pairs: Pairs) -> Pairs:
        """The k best images of each query by exact scores, with their best pairs."""
        scored = replace(pairs, scores=pair_scores(self._table, pairs.rows, self._rows, pairs.query_rows))
        best, place = best_of_images(scored)
        return best[place < self._k]
