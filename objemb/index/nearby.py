"""Exact search for queries close to those of an earlier search, from the best rows of the earlier one.

A re-ranker that expands a query searches for nearly the same again. Let q be the new query row, u the direction of an
earlier one, phi the angle between both, and s the inner product of u and a row x of length at most R. Since x has at
most the length ``sqrt(R^2 - s^2)`` across u,

    <q, x>  <=  |q| (s cos phi + sqrt(R^2 - s^2) sin phi)  =  |q| R cos(arccos(s / R) - phi).

A row that scores at least ``t = |q| R cos theta`` with q hence has ``s >= R cos(theta + phi)``. With t a lower bound of
the k-th best score, which the images found before give, only rows above this limit have to be read again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

import numpy as np

from objemb.index.storage.blocks import RowTable, VectorBlock
from objemb.ops.scored_pairs import Pairs
from objemb.types import Float32Array, Float64Array, Int64Array

#: Share of the rows that are kept, at most, for all query rows together: those of the highest scores. Picking out more
#: of them takes as long as reading all in order.
KEPT = 1 / 32
#: Rows from which the least score of these is estimated, at least, spread over the first chunk.
SAMPLE = 1 << 12
#: Largest length of a row, which is 1 up to the tolerance of the index and rounding to float16.
LONGEST_ROW = 1.02
#: Bound of rounding errors in scores and angles.
ROUNDING = 1e-5


@dataclass(eq=False)
class Scan:
    """What a search of all rows leaves for one that is close to it: the rows with the highest scores.

    Attributes:
        blocks: The blocks that were searched.
        queries: float32 ``(C, D)``, the rows of its queries.
        k: Images per query.
        best: The best pair of each image that it found.
    """

    blocks: Sequence[VectorBlock]
    queries: Float32Array
    k: int
    best: Pairs = field(default_factory=lambda: Pairs.cat([]))
    _floors: Float32Array | None = None
    _chunks: list[tuple[int, Int64Array, Float32Array, Float32Array]] = field(default_factory=list)
    _left: float = 0

    def __post_init__(self) -> None:
        self._left = 2 * KEPT * sum(map(len, self.blocks))

    def add(self, block: int, rows: slice | Int64Array, scores: Float32Array, slack: Float32Array) -> None:
        """Take the scores of a chunk of rows.

        Args:
            block: The number of their block.
            rows: The n rows there.
            scores: float32 ``(C, n)``, approximate; -inf for rows that may not be returned.
            slack: float32 ``(C,)``, bounds of their errors.
        """
        if self._left < 0 or not scores.shape[1]:
            return
        if self._floors is None:
            some = scores[:, :: max(1, scores.shape[1] // SAMPLE)]
            place = int(some.shape[1] * (1 - KEPT / len(scores)))
            self._floors = np.maximum(np.partition(some, place, axis=1)[:, place], np.finfo(np.float32).min)
        above = scores >= self._floors[:, None]
        found = np.flatnonzero(above[0] if len(above) == 1 else above.any(axis=0))
        self._left -= len(found)
        at = found + rows.start if isinstance(rows, slice) else rows[found]
        self._chunks.append((block, at, scores[:, found], slack))

    def is_of(self, blocks: Sequence[VectorBlock]) -> bool:
        """Whether it searched the same rows."""
        return len(blocks) == len(self.blocks) and all(
            own.vectors is other.vectors and own.alive is other.alive
            for own, other in zip(self.blocks, blocks, strict=True)
        )

    def rows_for(self, queries: Float32Array, groups: Int64Array, k: int) -> list[Int64Array] | None:
        """The rows that can belong to the ``k`` best images of other queries.

        Args:
            queries: float32 ``(R, D)``, the rows of these queries.
            groups: int64 ``(R,)``: the query of each row, numbered as those of this search.
            k: Images per query.

        Returns:
            Ascending int64 rows of each block; None if they cannot be told, or may not have been kept.
        """
        least = None if k > self.k or self._left < 0 else self._least_scores(queries, groups, k)
        if least is None:
            return None
        lengths, own_lengths = _lengths(queries), _lengths(self.queries)
        if not (lengths.all() and own_lengths.all()):
            return None
        cosines = (queries / lengths[:, None]) @ (self.queries / own_lengths[:, None]).T
        closest = cosines.argmax(axis=1)
        between = np.arccos(np.clip(cosines[np.arange(len(queries)), closest], -1, 1))
        allowed = np.arccos(np.clip((least - ROUNDING) / (lengths * LONGEST_ROW), -1, 1))
        limits = own_lengths[closest] * (LONGEST_ROW * np.cos(np.minimum(between + allowed, np.pi)) - ROUNDING)
        return self._rows_above(limits, closest)

    def _least_scores(self, queries: Float32Array, groups: Int64Array, k: int) -> Float64Array | None:
        """For each query row, a lower bound of the score of the ``k``-th best image of its query: the ``k``-th best of
        those that this search found. None if it found fewer."""
        table, least = RowTable(self.blocks), np.empty(len(queries))
        for query in np.unique(groups):
            rows = self.best.rows[self.best.queries == query]
            if len(rows) < k:
                return None
            own = groups == query
            scores = (table.vectors(rows).astype(np.float64) @ queries[own].T.astype(np.float64)).max(axis=1)
            least[own] = np.partition(scores, -k)[-k]
        return least

    def _rows_above(self, limits: Float64Array, columns: Int64Array) -> list[Int64Array] | None:
        """The rows of each block whose score with any of some query rows, ``columns``, reaches a limit; None if some of
        these may not have been kept."""
        rows: list[list[Int64Array]] = [[] for _ in self.blocks]
        for block, here, scores, slack in self._chunks:
            least = (limits - slack[columns]).astype(np.float32)
            if self._floors is None or (least < self._floors[columns]).any():
                return None
            rows[block].append(here[(scores[columns] >= least[:, None]).any(axis=0)])
        return [np.concatenate([np.zeros(0, np.int64), *parts]) for parts in rows]


class _Kept:
    """The scan that a thread keeps between searches."""

    scan: Scan | None = None


_KEPT: ContextVar[_Kept | None] = ContextVar("kept scan", default=None)


@contextmanager
def searching_nearby() -> Iterator[None]:
    """Within it, a thread keeps the best rows of its last exact search, from which it answers close queries sooner."""
    before = _KEPT.set(_Kept())
    try:
        yield
    finally:
        _KEPT.reset(before)


def kept_scan(blocks: Sequence[VectorBlock]) -> Scan | None:
    """The scan of these rows that this thread keeps."""
    kept = _KEPT.get()
    return None if kept is None or kept.scan is None or not kept.scan.is_of(blocks) else kept.scan


def new_scan(blocks: Sequence[VectorBlock], queries: Float32Array, k: int) -> Scan | None:
    """A scan to be filled, in place of the kept one; None outside of :func:`searching_nearby`."""
    kept = _KEPT.get()
    if kept is None:
        return None
    kept.scan = Scan(blocks, queries, k)
    return kept.scan


def _lengths(rows: Float32Array) -> Float64Array:
    lengths: Float64Array = np.sqrt(np.einsum("rd,rd->r", rows, rows, dtype=np.float64))
    return lengths
