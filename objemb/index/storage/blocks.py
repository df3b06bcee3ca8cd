"""Rows as a search reads them: blocks, and several blocks under one numbering."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from objemb.ops.int8_codes import Codes
from objemb.ops.scored_pairs import ScoredPair, with_next_best
from objemb.types import AnyArray, BoolArray, Float32Array, FloatArray, Int64Array

S = TypeVar("S", bound=np.generic)
T = TypeVar("T", bound=np.generic)

#: Numbers that are gathered at once to score pairs; few enough for the processor's cache.
NUMBERS_PER_STEP = 1 << 16


class Block(ABC):
    """A run of rows, such as a segment of an index.

    Attributes:
        images: int64 ``(n,)``, the internal image of each row; rows of an image are adjacent and in one block only.
        alive: bool ``(n,)``, False for rows that no search may return (deleted, filtered out); None for all alive.
    """

    images: Int64Array
    alive: BoolArray | None

    def __len__(self) -> int:
        return len(self.images)

    @abstractmethod
    def among(self, alive: BoolArray) -> Block:
        """The same rows, of which a search may return those only that are alive in ``alive``, bool ``(n,)``, too."""

    @abstractmethod
    def pairs_of_images(
        self, images: Sequence[slice], best: Sequence[ScoredPair], queries: Any, count: int
    ) -> list[list[ScoredPair]]:
        """Where images matched a query.

        Args:
            images: The rows of each image, which are in this block.
            best: For each image the pair that a search returned.
            queries: The rows of the query, as the schema of the rows encodes them; query rows count through these.
            count: How many further pairs of an image to give at most.

        Returns:
            For each image the pair that is to be shown, with the score of ``best``, and the next best pairs of alive
            rows, whose scores fall and are no higher.
        """


@dataclass(frozen=True, eq=False)
class VectorBlock(Block):
    """Rows of one vector each.

    Attributes:
        vectors: float32 or float16 ``(n, D)``; may be a read-only memory map.
        images: As of :class:`Block`.
        alive: Likewise.
        codes: 8-bit approximations of the vectors, which make exact search several times faster; None to read the
            vectors themselves.
    """

    vectors: FloatArray
    images: Int64Array
    alive: BoolArray | None = None
    codes: Codes | None = None

    def __post_init__(self) -> None:
        if self.vectors.ndim != 2 or self.vectors.dtype not in (np.float32, np.float16):
            raise ValueError(
                "VectorBlock.vectors: expected float32 or float16 (n, D), "
                f"found {self.vectors.dtype} {tuple(self.vectors.shape)}"
            )
        columns = {"images": self.images, "alive": self.alive, "codes": self.codes}
        for name, column in columns.items():
            if column is not None and len(column) != len(self.vectors):
                raise ValueError(f"VectorBlock.{name}: expected {len(self.vectors)} rows, found {len(column)}")

    def among(self, alive: BoolArray) -> VectorBlock:
        """As :meth:`Block.among`."""
        return replace(self, alive=alive if self.alive is None else alive & self.alive)

    def pairs_of_images(
        self, images: Sequence[slice], best: Sequence[ScoredPair], queries: Float32Array, count: int
    ) -> list[list[ScoredPair]]:
        """As :meth:`Block.pairs_of_images`; ``queries`` is float32 ``(q, D)``."""
        pairs = []
        for rows, first in zip(images, best, strict=True):
            if not count or (rows.stop - rows.start) * len(queries) < 2:
                pairs.append([first])
                continue
            scores = self.vectors[rows].astype(np.float32) @ queries.T
            if self.alive is not None:
                scores[~self.alive[rows]] = -np.inf
            pairs.append(with_next_best(first, scores, rows.start, count))
        return pairs


class RowTable:
    """Vectors of several blocks under one numbering, looked up without copying the blocks.

    Attributes:
        starts: int64 ``(blocks + 1,)``, the number of the first row of each block, then the count of all rows.
    """

    def __init__(self, blocks: Sequence[VectorBlock]) -> None:
        self.blocks = tuple(blocks)
        widths = {b.vectors.shape[1] for b in self.blocks}
        if len(widths) > 1:
            raise ValueError(f"blocks: expected vectors of one length, found {sorted(widths)}")
        self.dim: int | None = next(iter(widths), None)
        self.starts = np.cumsum([0, *(len(b) for b in self.blocks)], dtype=np.int64)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def images(self, rows: Int64Array) -> Int64Array:
        """The image of each row, int64 ``(P,)``."""
        return self._gathered(rows, [b.images for b in self.blocks], np.empty(len(rows), dtype=np.int64))

    def vectors(self, rows: Int64Array) -> Float32Array:
        """The vector of each row, float32 ``(P, D)``."""
        out = np.empty((len(rows), self.dim or 0), dtype=np.float32)
        return self._gathered(rows, [b.vectors for b in self.blocks], out)

    def _gathered(self, rows: Int64Array, columns: Sequence[NDArray[S]], out: NDArray[T]) -> NDArray[T]:
        """Fill ``out`` with the entries of ``rows`` in columns that have an entry for each row of their block.

        Ascending rows take half as long as others.
        """
        if len(columns) == 1:
            return columns[0][rows].astype(out.dtype, copy=False)
        order = None if (rows[1:] >= rows[:-1]).all() else rows.argsort(kind="stable")
        ascending = rows if order is None else rows[order]
        ends = ascending.searchsorted(self.starts)
        counts = np.diff(ends)
        own = ascending - self.starts[:-1].repeat(counts)
        for number in counts.nonzero()[0].tolist():
            here, column = slice(ends[number], ends[number + 1]), columns[number]
            if column.dtype == out.dtype:
                # "clip" changes no row that is there, and spares the copy that the default makes
                column.take(own[here], axis=0, out=out[here], mode="clip")
            else:
                out[here] = column[own[here]]
        if order is None:
            return out
        placed = np.empty_like(out)
        placed[order] = out
        return placed


def checked_queries(
    table: RowTable, queries: AnyArray, groups: AnyArray, k: int, count: int | None
) -> tuple[Float32Array, Int64Array, int]:
    """The arguments of a search as float32, int64 and the number of queries, or ``ValueError``."""
    queries, groups = np.ascontiguousarray(queries, dtype=np.float32), np.asarray(groups, dtype=np.int64)
    if k < 1:
        raise ValueError(f"k: expected at least 1, found {k}")
    if queries.ndim != 2 or (table.dim is not None and queries.shape[1] != table.dim):
        wanted = "D" if table.dim is None else table.dim
        raise ValueError(f"queries: expected shape (R, {wanted}), found {tuple(queries.shape)}")
    groups, count = checked_groups(groups, len(queries), k, count)
    return queries, groups, count


def checked_groups(groups: AnyArray, rows: int, k: int, count: int | None) -> tuple[Int64Array, int]:
    """The query of each of some rows as int64, and the number of queries, or ``ValueError``."""
    groups = np.asarray(groups, dtype=np.int64)
    if k < 1:
        raise ValueError(f"k: expected at least 1, found {k}")
    if groups.shape != (rows,) or (groups[1:] < groups[:-1]).any() or (groups[:1] < 0).any():
        raise ValueError(f"groups: expected {rows} non-decreasing numbers from 0, found {groups.tolist()[:20]}")
    last = int(groups[-1]) + 1 if len(groups) else 0
    if count is not None and count < last:
        raise ValueError(f"count: expected at least {last} queries, as in groups, found {count}")
    return groups, last if count is None else count


def pair_scores(table: RowTable, rows: Int64Array, queries: Float32Array, query_rows: Int64Array) -> Float32Array:
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
