"""Exact search: the best images by the best pair of rows, over any number of blocks.

The rows are read once, in chunks, for up to 64 query rows at a time. A chunk gives scores that are off by no more than
a known bound: from 8-bit codes where a block has them, else by float32 products. The pairs that such scores cannot rule
out, a tiny share, are scored from the vectors. So the result depends neither on codes and blocks nor on threads, and
memory is bounded whatever the number of rows and queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from objemb.index.blocks import Block, GroupedHits, Pairs, RowTable, top_images
from objemb.index.engines._codes import EncodedQueries, code_scores, encode_queries
from objemb.index.engines._top_k import TopK
from objemb.index.storage.errors import DamagedIndexError
from objemb.ops.arrays import as_tensor

#: Query rows that share one pass over the index.
QUERY_ROWS_PER_PASS = 64
#: Scores of a chunk: few enough for the processor's cache, many enough that threads seldom wait for each other.
SCORES_PER_CHUNK = 1 << 20
#: Numbers of a chunk's vectors, which bounds the memory where they have to be gathered or converted.
NUMBERS_PER_CHUNK = 1 << 25
#: Below this share of alive rows in a block, they are gathered instead of scoring all.
SPARSE = 0.25
#: Twice the error that summing a column of unit vectors in float32 may add to their product.
FLOAT32_ROUNDING = 2.0**-23


def search_exact(
    blocks: Sequence[Block],
    queries: NDArray[np.float32],
    groups: NDArray[np.int64],
    k: int,
    *,
    count: int | None = None,
) -> GroupedHits:
    """The ``k`` best images of each query.

    The score of an image is the largest inner product of any of its alive rows with any row of the query, summed in
    float64 and rounded once. Of equal scores the lower row comes first, then the lower query row.

    Args:
        blocks: The rows, expected to be at most of unit length; zero blocks and blocks without rows are allowed.
        queries: float32 ``(R, D)``, the rows of all queries, finite.
        groups: int64 ``(R,)``, non-decreasing: the query that each row belongs to, numbered from 0.
        k: Images per query.
        count: Number of queries Q; by default one more than the last of ``groups``. Queries without rows find nothing.

    Returns:
        Hits with ``(Q, k)`` fields, padded where a query has fewer images: ``28 Q k`` bytes.

    Raises:
        DamagedIndexError: A vector is not finite.
        ValueError: Shapes or lengths do not fit together, or ``k`` is below 1.
    """
    table = RowTable(blocks)
    queries, groups, count = checked_queries(table, queries, groups, k, count)
    found = []
    for start in range(0, len(queries), QUERY_ROWS_PER_PASS):
        here = slice(start, start + QUERY_ROWS_PER_PASS)
        pairs = _one_pass(table, queries[here], groups[here], k)
        found.append(Pairs(pairs.rows, pairs.query_rows + start, pairs.queries, pairs.images, pairs.scores))
    return top_images(Pairs.cat(found), count, k)


def checked_queries(
    table: RowTable, queries: NDArray, groups: NDArray, k: int, count: int | None
) -> tuple[NDArray[np.float32], NDArray[np.int64], int]:
    """The arguments of a search as float32, int64 and the number of queries, or ``ValueError``."""
    queries, groups = np.ascontiguousarray(queries, dtype=np.float32), np.asarray(groups, dtype=np.int64)
    if k < 1:
        raise ValueError(f"k: expected at least 1, found {k}")
    if queries.ndim != 2 or (table.dim is not None and queries.shape[1] != table.dim):
        wanted = "D" if table.dim is None else table.dim
        raise ValueError(f"queries: expected shape (R, {wanted}), found {tuple(queries.shape)}")
    if groups.shape != (len(queries),) or np.any(groups[1:] < groups[:-1]) or np.any(groups[:1] < 0):
        raise ValueError(f"groups: expected {len(queries)} non-decreasing numbers from 0, found {groups.tolist()[:20]}")
    last = int(groups[-1]) + 1 if len(groups) else 0
    if count is not None and count < last:
        raise ValueError(f"count: expected at least {last} queries, as in groups, found {count}")
    return queries, groups, last if count is None else count


def _one_pass(table: RowTable, queries: NDArray[np.float32], groups: NDArray[np.int64], k: int) -> Pairs:
    """The best pairs of at most ``QUERY_ROWS_PER_PASS`` query rows."""
    best = TopK(table, queries, groups, k)
    batch = as_tensor(queries)
    encoded = encode_queries(batch)
    size = max(1, min(SCORES_PER_CHUNK // len(queries), NUMBERS_PER_CHUNK // max(1, queries.shape[1])))
    for block, start in zip(table.blocks, table.starts, strict=False):
        for rows in _chunks(block, size):
            scores, slack = _approximate(block, rows, batch, encoded)
            best.add(scores.numpy(), slack.numpy(), rows, int(start), block.images[rows])
    return best.result()


def _chunks(block: Block, size: int) -> Iterator[slice | NDArray[np.int64]]:
    """The rows of a block in turn, as slices; as arrays of the alive rows alone where those are few."""
    few = None
    if block.alive is not None and np.count_nonzero(block.alive) < SPARSE * len(block):
        few = np.flatnonzero(block.alive)
    end = len(block) if few is None else len(few)
    for start in range(0, end, size):
        here = slice(start, min(start + size, end))
        yield here if few is None else few[here]


def _approximate(
    block: Block, rows: slice | NDArray[np.int64], queries: Tensor, encoded: EncodedQueries
) -> tuple[Tensor, Tensor]:
    """float32 ``(C, n)`` scores, -inf for dead rows, and ``(C,)`` bounds of their error."""
    if block.codes is not None:
        index = rows if isinstance(rows, slice) else torch.from_numpy(rows)
        scores, slack = code_scores(block.codes, index, encoded)
    else:
        scores = _products(as_tensor(np.ascontiguousarray(block.vectors[rows], dtype=np.float32)), queries)
        if not math.isfinite(float(scores.sum())):  # NaN loses every comparison: nothing would be found, and none know
            raise DamagedIndexError(f"expected finite vectors, found others among rows {_named(rows)} of a block")
        slack = encoded.lengths * (FLOAT32_ROUNDING * queries.shape[1])
    if block.alive is not None:
        scores.masked_fill_(torch.from_numpy(~block.alive[rows]), -torch.inf)
    return scores, slack


def _named(rows: slice | NDArray[np.int64]) -> str:
    return f"{rows.start} to {rows.stop}" if isinstance(rows, slice) else f"{rows[0]} to {rows[-1] + 1}"


def _products(vectors: Tensor, queries: Tensor) -> Tensor:
    """Inner products, float32 ``(C, n)``."""
    if len(queries) == 1:  # some BLAS multiply by one column at a fraction of the speed of two
        return (vectors @ queries.repeat(2, 1).T)[:, :1].T.contiguous()
    return (vectors @ queries.T).T.contiguous()
