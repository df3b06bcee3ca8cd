"""Exact search: the best images by the best pair of rows, over any number of blocks.

The rows are read once, in chunks, for up to 64 query rows at a time. The scores of a chunk have a known error bound:
they are computed from 8-bit codes if a block has them, otherwise by float32 products. The few pairs that they cannot
rule out are scored from the vectors. The result thus does not depend on codes, blocks, kernels or threads, and memory
is limited whatever the number of rows and queries.
"""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from objemb.checks import DamagedIndexError
from objemb.index.engines.base import ByteOutput, Engine, OnProgress, Structure, ignored
from objemb.index.nearby import Scan, kept_scan, new_scan
from objemb.index.storage.blocks import RowTable, VectorBlock, checked_queries, pair_scores
from objemb.ops.int8_codes import Codes, EncodedQueries, code_scores, encode, encode_queries, row_lengths
from objemb.ops.products import Kernel, best_kernel, compiled_kernel, float_products
from objemb.ops.scored_pairs import GroupedHits, Pairs, as_hits, best_of_images, top_images
from objemb.registry import plugin
from objemb.types import BoolArray, Buffer, Float32Array, FloatArray, Int64Array

#: Number of query rows that share one pass over the index.
QUERY_ROWS_PER_PASS = 64
#: Scores of a chunk: few enough for the processor's cache, many enough that threads seldom wait for each other.
SCORES_PER_CHUNK = 1 << 20
#: Numbers in a chunk's vectors, which limits the memory if they have to be gathered or converted.
NUMBERS_PER_CHUNK = 1 << 25
#: Below this share of alive rows in a block, they are gathered instead of scoring all.
SPARSE = 0.25
#: Twice the error that summing a column of unit vectors in float32 may add to their product.
FLOAT32_ROUNDING = 2.0**-23
#: Encoding the vectors takes as long as searching this many query rows without codes.
ENCODE_AFTER = 16
#: Numbers in the index times query rows that are compared before a kernel is compiled, which takes as long: a second.
COMPILE_AFTER = 1 << 31
#: Searches that are timed without codes and with each kernel, after one that warms up.
TURNS = 4
#: Searches with the choice after which their shortest time is compared with the one that it was chosen for, and the
#: factor by which both may differ.
RECENT, CHANGED = 64, 1.5
#: Codes are used if searches with them take at most this share of the time without.
CLEARLY_FASTER = 0.95
#: Sizes of an index, in numbers of its vectors, for which codes are computed: a smaller one is searched in a
#: millisecond without them, and the codes of a larger one, a byte per number, would take too much memory.
MIN_CODES, MAX_CODES = 1 << 20, 1 << 30
#: Rows from which the first lower bound is taken, at least and per wanted image.
BOUND_ROWS, BOUND_ROWS_PER_IMAGE = 1 << 14, 32
#: Pairs of some rows with query rows that are all scored exactly, because that takes no longer than ruling out some.
MAX_DIRECT = 1 << 11
#: Pending pairs that are scored exactly as they are at the end, because that takes no longer than pruning them.
FEW_PAIRS = 1 << 7
#: Minimum number of pending pairs before pruning; otherwise twice the survivors of the last pruning.
CAPACITY = 1 << 12
#: Number of pending pairs from which pruning scores them exactly and keeps the k best images only.
MAX_PENDING = 1 << 20


@plugin
class Exact(Engine[Float32Array, VectorBlock]):
    """Compares a query with every row. Nothing is stored."""

    accepts = frozenset({"unit_vectors"})
    exact = True

    def build(self, blocks: Sequence[VectorBlock], on_progress: OnProgress = ignored) -> ExactSearch:
        """A structure for any rows."""
        return ExactSearch()

    def load(self, files: Mapping[str, Buffer]) -> ExactSearch:
        """A structure for any rows; there are no files."""
        return ExactSearch()


class ExactSearch(Structure[Float32Array, VectorBlock]):
    """Exact search of any blocks. After as many queries as pay for encoding, it makes 8-bit codes of the vectors, once
    for each array, if searching with them is faster.

    How much faster products of codes are depends on the processor, the kernel and the size of the search: several
    times with VNNI or with a compiled loop, not at all for some kernels and processors. So the first searches of each
    size take turns without codes and with each kernel, and are timed; then the fastest is used for this size.
    """

    def __init__(self) -> None:
        self._query_rows = self._compared = 0
        self._codes: dict[tuple[int, int], Codes] = {}
        self._trials: dict[tuple[object, ...], _Trial] = {}

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
        numbers = sum(b.vectors.size for b in blocks)
        self._query_rows += len(queries)
        self._compared += len(queries) * numbers
        if numbers < MIN_CODES or not len(queries):
            return search_exact(blocks, queries, groups, k, count=count)
        checked_queries(RowTable(blocks), queries, groups, k, count)
        earlier = kept_scan(blocks)
        rows = None if earlier is None else earlier.rows_for(queries, groups, k)
        if earlier is not None and rows is not None:
            return search_exact(earlier.blocks, queries, groups, k, count=count, among=rows)
        if self._query_rows < ENCODE_AFTER or numbers > MAX_CODES:
            return _all_rows(blocks, queries, groups, k, count)
        alive = sum(len(b) if b.alive is None else int(np.count_nonzero(b.alive)) for b in blocks)
        trial = self._trial(len(queries), k, alive, blocks)
        kernel = trial.next_kernel()
        if kernel is not None:
            blocks = [replace(b, codes=self._codes_of(b.vectors, kernel)) for b in blocks]
        start = time.perf_counter()
        hits = _all_rows(blocks, queries, groups, k, count)
        trial.add(kernel, (time.perf_counter() - start) / (len(queries) * max(1, alive)))
        return hits

    def _kernels(self, numbers: int) -> list[Kernel]:
        """The kernels that are worth a try by now. Where the codes of all would take too much memory, those with
        coarser codes than another one are left out."""
        compiled = compiled_kernel() if self._compared >= COMPILE_AFTER else None
        fast = [kernel for kernel in (best_kernel(), compiled) if kernel is not None and kernel.fast_codes]
        finest = max((kernel.largest_code for kernel in fast), default=0)
        if numbers * len({kernel.largest_code for kernel in fast}) <= MAX_CODES:
            return fast
        return [kernel for kernel in fast if kernel.largest_code == finest]

    def _trial(self, query_rows: int, k: int, alive: int, blocks: Sequence[VectorBlock]) -> _Trial:
        """That of searches of a size: the same powers of two of query rows, k, and rows that are alive."""
        kernels = self._kernels(sum(b.vectors.size for b in blocks))
        rows = min(query_rows, QUERY_ROWS_PER_PASS)
        size = (*kernels, blocks[0].vectors.shape[1], rows.bit_length(), k.bit_length(), alive.bit_length())
        if size not in self._trials:
            self._trials[size] = _Trial(kernels)
        return self._trials[size]

    def write(self, create: Callable[[str], ByteOutput]) -> None:
        """Writes nothing."""

    def _codes_of(self, vectors: FloatArray, kernel: Kernel) -> Codes:
        """The codes of an array for a kernel, cached as long as the array exists."""
        key = id(vectors), kernel.largest_code
        codes = self._codes.get(key)
        if codes is None:
            codes = self._codes[key] = _encoded(vectors, kernel)
            weakref.finalize(vectors, self._codes.pop, key, None)
        return replace(codes, kernel=kernel)


def _all_rows(
    blocks: Sequence[VectorBlock], queries: Float32Array, groups: Int64Array, k: int, count: int | None
) -> GroupedHits:
    """As :func:`search_exact`; the scores are kept where a close search may follow."""
    scan = new_scan(blocks, queries, k) if len(queries) <= QUERY_ROWS_PER_PASS else None
    return search_exact(blocks, queries, groups, k, count=count, scan=scan)


class _Trial:
    """Which kernel is fastest for searches of one size, None for no codes: the real searches are the trial.

    Searches take turns, so that other programs disturb all kernels alike, and the shortest time of each counts, as the
    one that was disturbed least. The first one with each kernel warms up, and is not counted. What is not clearly
    faster than a search without codes is not used. When the times of the choice are no longer those of its trial, since
    other programs have come or gone, the trial begins anew.
    """

    def __init__(self, kernels: Sequence[Kernel]) -> None:
        self._kernels = (None, *kernels)
        self._begin()

    def _begin(self) -> None:
        self._seconds: dict[Kernel | None, list[float]] = {kernel: [] for kernel in self._kernels}
        self._recent: list[float] = []

    def next_kernel(self) -> Kernel | None:
        """The kernel for the next search: the one that had fewest turns or, when all had enough, the fastest."""
        times = self._seconds  # read once, because another thread may begin anew
        turns = {kernel: len(seconds) for kernel, seconds in times.items()}
        if min(turns.values()) <= TURNS:
            return min(turns, key=lambda kernel: turns[kernel])
        shortest = {kernel: min(seconds[1:]) for kernel, seconds in times.items()}
        best = min(shortest, key=lambda kernel: shortest[kernel])
        return best if shortest[best] < CLEARLY_FASTER * shortest[None] else None

    def add(self, kernel: Kernel | None, seconds: float) -> None:
        """Take the running time of a search, for each pair of rows."""
        times, recent = self._seconds, self._recent
        if len(times[kernel]) <= TURNS:
            times[kernel].append(seconds)
            return
        recent.append(seconds)
        if len(recent) < RECENT:
            return
        self._recent = []
        now, then = min(recent), min(times[kernel][1:])
        if not then / CHANGED <= now <= then * CHANGED:
            self._begin()


def _encoded(vectors: FloatArray, kernel: Kernel) -> Codes:
    """Codes of vectors from an index; ``DamagedIndexError`` if they are not finite."""
    try:
        return encode(vectors, kernel)
    except ValueError as error:
        raise DamagedIndexError(str(error)) from error


def search_exact(
    blocks: Sequence[VectorBlock],
    queries: Float32Array,
    groups: Int64Array,
    k: int,
    *,
    count: int | None = None,
    among: Sequence[Int64Array] | None = None,
    scan: Scan | None = None,
) -> GroupedHits:
    """The ``k`` best images of each query.

    The score of an image is the largest inner product of any of its alive rows with any row of the query, summed in
    float64 and rounded once. Ties are ordered by row, then by query row.

    Args:
        blocks: The rows, with lengths of at most 1; there may be no blocks, and blocks without rows.
        queries: float32 ``(R, D)``, the rows of all queries, finite.
        groups: int64 ``(R,)``, non-decreasing: the query that each row belongs to, numbered from 0.
        k: Images per query.
        count: Number of queries Q; by default one more than the last of ``groups``. Queries without rows have no hits.
        among: Ascending int64 rows of each block, all alive, the only ones that are searched; None for all.
        scan: Takes the scores; for no more query rows than share a pass.

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
        if among is not None and len(queries[here]) * sum(map(len, among)) <= MAX_DIRECT:
            pairs = _every_pair(table, queries[here], groups[here], among)
        else:
            pairs = _one_pass(table, queries[here], groups[here], k, among, scan)
        passes.append(replace(pairs, query_rows=pairs.query_rows + start))
    return as_hits(passes[0], count, k) if len(passes) == 1 else top_images(Pairs.cat(passes), count, k)


def _every_pair(table: RowTable, queries: Float32Array, groups: Int64Array, among: Sequence[Int64Array]) -> Pairs:
    """The best pairs of images with each query, of a few rows of each block, all alive, and all query rows."""
    numbers = np.concatenate([rows + first for rows, first in zip(among, table.starts, strict=False)])
    rows, columns = np.repeat(numbers, len(queries)), np.tile(np.arange(len(queries)), len(numbers))
    scores = pair_scores(table, rows, queries, columns)
    return best_of_images(Pairs(rows, columns, groups[columns], table.images(rows), scores))[0]


def _one_pass(
    table: RowTable,
    queries: Float32Array,
    groups: Int64Array,
    k: int,
    among: Sequence[Int64Array] | None,
    scan: Scan | None,
) -> Pairs:
    """The best pairs of at most ``QUERY_ROWS_PER_PASS`` query rows."""
    best, scorer = _TopK(table, queries, groups, k), _Scorer(queries)
    size = max(1, min(SCORES_PER_CHUNK // len(queries), NUMBERS_PER_CHUNK // max(1, queries.shape[1])))
    for number, (block, start) in enumerate(zip(table.blocks, table.starts, strict=False)):
        for rows in _chunks(block, size, None if among is None else among[number]):
            scores, slack = scorer.scores(block, rows)
            best.add(scores, slack, rows, int(start), block.images[rows])
            if scan is not None:
                scan.add(number, rows, scores, slack)
    found = best.result()
    if scan is not None:
        scan.best = found
    return found


def _chunks(block: VectorBlock, size: int, few: Int64Array | None) -> Iterator[slice | Int64Array]:
    """The rows of a block, or the few that are given, in chunks: slices, or arrays if few rows are alive."""
    if few is None and block.alive is not None and np.count_nonzero(block.alive) < SPARSE * len(block):
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
            scores, slack = float_products(self._queries, vectors), self._float_slack
            with np.errstate(invalid="ignore", over="ignore"):
                total = float(scores.sum())
            if not math.isfinite(total):  # NaN loses every comparison, so rows would silently be missed
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


class _TopK:
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
        if self._count > FEW_PAIRS:
            self._prune()
        best = self._exactly(Pairs.cat(self._pending))
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
        """bool ``(C, n)``: pairs that may be the best of their image and query.

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
        self._pending = [pairs if len(pairs) <= MAX_PENDING else self._exactly(pairs)]
        self._count = len(self._pending[0])
        self._capacity = max(CAPACITY, min(2 * self._count, MAX_PENDING))

    def _raise_lower_bound(self, lower_bound: Float32Array) -> None:
        self._lower_bound = np.maximum(self._lower_bound, lower_bound)

    def _kth_best_image(self, queries: Int64Array, images: Int64Array, scores: Float32Array) -> Float32Array:
        """For each query, the k-th largest of the best scores of its images; -inf with fewer than k images."""
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
