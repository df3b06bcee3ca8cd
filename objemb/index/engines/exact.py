"""Exact search: the best images by the best pair of rows, over any number of blocks.

The rows are read once, in chunks, for up to 64 query rows at a time. A chunk gives scores that are off by no more than
a known bound: from 8-bit codes where a block has them, else by float32 products. The pairs that such scores cannot rule
out, a tiny share, are scored from the vectors. So the result depends neither on codes, blocks and kernels nor on
threads, and memory is bounded whatever the number of rows and queries.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from objemb.index.blocks import GroupedHits, Pairs, RowTable, VectorBlock, top_images
from objemb.index.engines import _kernels
from objemb.index.engines._codes import Codes, EncodedQueries, code_scores, encode, encode_queries, row_lengths
from objemb.index.engines._kernels import Kernel
from objemb.index.engines._top_k import TopK
from objemb.index.engines.base import ByteOutput, Engine, Structure, checked_queries
from objemb.index.storage.errors import DamagedIndexError
from objemb.registry import plugin
from objemb.types import Float32Array, FloatArray, Int64Array

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
#: Encoding the vectors takes as long as searching this many query rows without codes.
ENCODE_AFTER = 16
#: Sizes of an index, in numbers of its vectors, for which codes are made: a smaller one is searched in a millisecond
#: without, and the codes of a larger one, a byte per number, would take too much memory.
LEAST_CODES, MOST_CODES = 1 << 20, 1 << 30


@plugin
class Exact(Engine[Float32Array, VectorBlock]):
    """Compares a query with every row. Nothing is stored."""

    accepts = frozenset({"unit_vectors"})
    exact = True

    def build(self, blocks: Sequence[VectorBlock]) -> ExactSearch:
        """A structure for any rows."""
        return ExactSearch()

    def load(self, files: Mapping[str, object]) -> ExactSearch:
        """Likewise."""
        return ExactSearch()


class ExactSearch(Structure[Float32Array, VectorBlock]):
    """Exact search of any blocks. Once so much was searched that 8-bit codes would have paid off, it makes them, of
    each array of vectors one time."""

    def __init__(self) -> None:
        self._query_rows = 0
        self._codes: dict[int, Codes] = {}

    def search(
        self,
        queries: Float32Array,
        groups: Int64Array,
        k: int,
        blocks: Sequence[VectorBlock],
        *,
        count: int | None = None,
    ) -> GroupedHits:
        """As :meth:`objemb.index.engines.base.Structure.search`, of whatever blocks."""
        self._query_rows += len(queries)
        numbers = sum(b.vectors.size for b in blocks)
        if self._query_rows >= ENCODE_AFTER and LEAST_CODES <= numbers <= MOST_CODES and _kernels.best().fast_codes:
            blocks = [replace(b, codes=self._codes_of(b.vectors)) for b in blocks]
        return search_exact(blocks, queries, groups, k, count=count)

    def write(self, create: Callable[[str], ByteOutput]) -> None:
        """Writes nothing."""

    def _codes_of(self, vectors: FloatArray) -> Codes:
        """The codes of an array, kept as long as the array is."""
        codes = self._codes.get(id(vectors))
        if codes is None:
            self._codes[id(vectors)] = codes = encode(vectors)
            weakref.finalize(vectors, self._codes.pop, id(vectors), None)
        return codes


def search_exact(
    blocks: Sequence[VectorBlock],
    queries: Float32Array,
    groups: Int64Array,
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
    passes = []
    for start in range(0, len(queries), QUERY_ROWS_PER_PASS):
        here = slice(start, start + QUERY_ROWS_PER_PASS)
        pairs = _one_pass(table, queries[here], groups[here], k)
        passes.append(replace(pairs, query_rows=pairs.query_rows + start))
    return top_images(Pairs.cat(passes), count, k)


def coded(block: VectorBlock) -> VectorBlock:
    """The block with 8-bit codes of its vectors."""
    return replace(block, codes=encode(block.vectors))


def _one_pass(table: RowTable, queries: Float32Array, groups: Int64Array, k: int) -> Pairs:
    """The best pairs of at most ``QUERY_ROWS_PER_PASS`` query rows."""
    best, scorer = TopK(table, queries, groups, k), _Scorer(queries)
    size = max(1, min(SCORES_PER_CHUNK // len(queries), NUMBERS_PER_CHUNK // max(1, queries.shape[1])))
    for block, start in zip(table.blocks, table.starts, strict=False):
        for rows in _chunks(block, size):
            scores, slack = scorer.scores(block, rows)
            best.add(scores, slack, rows, int(start), block.images[rows])
    return best.result()


def _chunks(block: VectorBlock, size: int) -> Iterator[slice | Int64Array]:
    """The rows of a block in turn, as slices; as arrays of the alive rows alone where those are few."""
    few = None
    if block.alive is not None and np.count_nonzero(block.alive) < SPARSE * len(block):
        few = np.flatnonzero(block.alive)
    end = len(block) if few is None else len(few)
    for start in range(0, end, size):
        here = slice(start, min(start + size, end))
        yield here if few is None else few[here]


class _Scorer:
    """Approximate scores of ``(C, D)`` query rows."""

    def __init__(self, queries: Float32Array) -> None:
        self._queries = queries
        self._float_slack = row_lengths(queries) * np.float32(FLOAT32_ROUNDING * queries.shape[1])
        self._encoded: dict[Kernel, EncodedQueries] = {}

    def scores(self, block: VectorBlock, rows: slice | Int64Array) -> tuple[Float32Array, Float32Array]:
        """float32 ``(C, n)`` scores, -inf for dead rows, and ``(C,)`` bounds of their error."""
        if block.codes is not None:
            scores, slack = code_scores(block.codes, rows, self._encoded_for(block.codes.kernel))
        else:
            vectors = np.ascontiguousarray(block.vectors[rows], dtype=np.float32)
            scores, slack = _kernels.float_products(self._queries, vectors), self._float_slack
            with np.errstate(invalid="ignore", over="ignore"):
                total = float(scores.sum())
            if not math.isfinite(total):  # NaN loses every comparison: nothing would be found, and nobody would know
                raise DamagedIndexError(f"expected finite vectors, found others among rows {_named(rows)} of a block")
        if block.alive is not None:
            np.copyto(scores, -np.inf, where=~block.alive[rows])
        return scores, slack

    def _encoded_for(self, kernel: Kernel) -> EncodedQueries:
        if kernel not in self._encoded:
            self._encoded[kernel] = encode_queries(self._queries, kernel)
        return self._encoded[kernel]


def _named(rows: slice | Int64Array) -> str:
    return f"{rows.start} to {rows.stop}" if isinstance(rows, slice) else f"{rows[0]} to {rows[-1] + 1}"
