"""Approximate search with FAISS: candidates from an inverted file, always scored again from the stored vectors.

Rows are sorted into lists around k-means centroids and kept as 8-bit scalars (``ivf_sq8``, fast and faithful) or
product-quantised (``ivf_pq``, a quarter of that size or less). A query looks into the few lists nearest to it. Scores
and matched rows are exact for all rows that were looked at; what may be missed is an image whose rows lie in other
lists.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from objemb import checks
from objemb.index.blocks import NO_HIT, Block, GroupedHits, Pairs, RowTable, pair_scores, pairs_of, top_images
from objemb.index.engines.exact import checked_queries, search_exact
from objemb.index.storage.errors import DamagedIndexError

#: The kinds of structure, and how many times more candidates each fetches because its scores are coarser.
KINDS = {"ivf_sq8": 1, "ivf_pq": 4}
#: Rows per list below which more lists do not pay off, and sampled rows per list for k-means.
ROWS_PER_LIST, SAMPLE_PER_LIST = 64, 64
#: Rows that a query looks at in its lists, in all and per wanted image.
ROWS_LOOKED_AT, ROWS_PER_IMAGE = 2048, 64
#: Rows that are added to the structure at once.
ROWS_PER_STEP = 1 << 16
#: Bits of a product-quantised code, which is the least number of rows to train one.
PQ_BITS = 8
#: Candidates per wanted image in the first round; every further round looks for and looks into ``GROWTH`` times more.
CANDIDATES, GROWTH = 3, 4
#: Rounds after which what is still missing is searched exactly.
ROUNDS = 3
#: Below this share of rows that may be returned, exact search over these rows is both faster and complete.
SELECTIVE = 0.05


def build_ivf(blocks: Sequence[Block], *, kind: str = "ivf_sq8", lists: int | None = None, seed: int = 0) -> IvfIndex:
    """Build the structure over all rows of ``blocks``.

    Rows are read in steps; memory is that of the structure and of a sample for k-means.

    Args:
        blocks: The rows; dead ones are taken in too, so that numbers of rows stay positions in the blocks.
        kind: ``"ivf_sq8"`` or ``"ivf_pq"``.
        lists: Number of inverted lists; by default :func:`default_lists` of the number of rows.
        seed: Chooses the sample and starts k-means.

    Raises:
        ImportError: FAISS is not installed.
        ValueError: There are no rows, or too few for ``ivf_pq``.
    """
    faiss = _faiss()
    checks.one_of("kind", kind, KINDS)
    table = RowTable(blocks)
    if not len(table):
        raise ValueError("blocks: expected at least one row, found none")
    if kind == "ivf_pq" and len(table) < 1 << PQ_BITS:
        raise ValueError(f"blocks: expected at least {1 << PQ_BITS} rows for 'ivf_pq', found {len(table)}")
    lists = default_lists(len(table)) if lists is None else checks.between("lists", lists, 1, len(table))
    index = _empty(faiss, kind, table.dim or 0, lists, seed)
    index.train(_sample(table, max(SAMPLE_PER_LIST * lists, 1 << PQ_BITS + 6), seed))
    for block in blocks:
        for start in range(0, len(block), ROWS_PER_STEP):
            index.add(np.ascontiguousarray(block.vectors[start : start + ROWS_PER_STEP], dtype=np.float32))
    return IvfIndex(index, kind)


def default_lists(rows: int) -> int:
    """Number of lists: 2 sqrt(rows) as a power of two, of ``ROWS_PER_LIST`` rows or more; 2048 for a million rows."""
    wanted = min(2 * rows**0.5, rows / ROWS_PER_LIST)
    return 1 << max(0, round(np.log2(max(wanted, 1))))


def default_probes(lists: int, rows: int, k: int) -> int:
    """Number of lists to look into for ``k`` images: as many as hold 2048 rows and 64 rows per image, at least 4.

    Above 2048 lists it is at least one of 512. Of a million rows in 2048 lists: 5 for 10 images, 14 for 100.
    """
    wanted = max(ROWS_LOOKED_AT, ROWS_PER_IMAGE * k) * lists / max(rows, 1)
    return min(lists, max(4, lists // 512, math.ceil(wanted)))


@dataclass(frozen=True, eq=False)
class _Look:
    """What is looked for, and among what: the arguments of one search."""

    table: RowTable
    queries: NDArray[np.float32]
    groups: NDArray[np.int64]
    k: int
    count: int
    inside: int
    selector: Any

    def pairs(self, rows: NDArray[np.int64], query_rows: NDArray[np.int64]) -> Pairs:
        """Pairs with exact scores."""
        scores = pair_scores(self.table, rows, self.queries, query_rows)
        return Pairs(rows, query_rows, self.groups[query_rows], self.table.images(rows), scores)

    def exactly(self, query_rows: NDArray[np.int64]) -> Pairs:
        """The best pairs of these query rows among all covered rows."""
        blocks, queries, groups = self.table.blocks[: self.inside], self.queries[query_rows], self.groups[query_rows]
        pairs = pairs_of(search_exact(blocks, queries, groups, self.k, count=self.count))
        return replace(pairs, query_rows=query_rows[pairs.query_rows])


class IvfIndex:
    """An approximate search structure over the first rows of an index.

    FAISS runs on as many threads as torch (``torch.set_num_threads``).

    Attributes:
        kind: ``"ivf_sq8"`` or ``"ivf_pq"``.
        dim: Length of the vectors.
        covered: Number of rows inside; rows beyond are searched exactly.
        lists: Number of inverted lists.
    """

    def __init__(self, index: Any, kind: str) -> None:
        self._index = index
        self.kind = kind
        self.dim, self.covered, self.lists = int(index.d), int(index.ntotal), int(index.nlist)
        self._filter: tuple[list[NDArray[np.bool_] | None], Any, int] | None = None

    def write(self, write: Callable[[bytes], None]) -> None:
        """Hand all bytes of the structure to ``write``, some at a time; what it raises goes on."""
        faiss = _faiss()
        failed: list[BaseException] = []

        def step(data: bytes) -> None:
            try:
                write(data)
            except BaseException as error:  # FAISS would make a RuntimeError of it
                failed.append(error)
                raise

        try:
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(step))
        except RuntimeError:
            if failed:
                raise failed[0] from None
            raise

    @staticmethod
    def read(name: str, data: Any) -> IvfIndex:
        """What :meth:`write` wrote. Check its checksum before: FAISS trusts what it reads.

        Args:
            name: Of the file, for messages.
            data: Its bytes (anything with the buffer protocol).

        Raises:
            ImportError: FAISS is not installed.
            DamagedIndexError: The bytes are something else.
        """
        faiss = _faiss()
        view, at = memoryview(data).cast("B"), 0

        def step(count: int) -> bytes:
            nonlocal at
            at += count
            return bytes(view[at - count : at])

        try:
            index = faiss.read_index(faiss.PyCallbackIOReader(step))
        except RuntimeError as error:
            raise DamagedIndexError(f"{name}: cannot be read as an approximate search structure: {error}") from error
        kinds = {faiss.IndexIVFScalarQuantizer: "ivf_sq8", faiss.IndexIVFPQ: "ivf_pq"}
        kind = kinds.get(type(index))
        if kind is None or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise DamagedIndexError(
                f"{name}: expected an inner-product ivf_sq8 or ivf_pq, found {type(index).__name__}"
            )
        return IvfIndex(index, kind)

    def search(
        self,
        queries: NDArray[np.float32],
        groups: NDArray[np.int64],
        k: int,
        blocks: Sequence[Block],
        *,
        count: int | None = None,
        probes: int | None = None,
    ) -> GroupedHits:
        """The best ``k`` images of each query, approximately.

        Looks into more lists until there are ``k`` distinct images; where three rounds were not enough, or few rows
        are alive, searches exactly.

        Args:
            queries: As for :func:`~objemb.index.engines.exact.search_exact`.
            groups: Likewise.
            k: Images per query.
            blocks: The rows; the first ones are those that the structure was built over, in the same order. Rows in
                further blocks are searched exactly.
            count: As for ``search_exact``.
            probes: Lists to look into at first; by default :func:`default_probes`.

        Returns:
            Hits as ``search_exact`` gives them, with exact scores.

        Raises:
            ValueError: Arguments do not fit together, or the blocks do not begin with the covered rows.
        """
        table = RowTable(blocks)
        queries, groups, count = checked_queries(table, queries, groups, k, count)
        inside = self._covered_blocks(table)
        if queries.shape[1] != self.dim:
            raise ValueError(f"queries: expected {self.dim} columns, found {queries.shape[1]}")
        selector, alive = self._selector(table.blocks[:inside])
        if alive < SELECTIVE * self.covered:
            return search_exact(blocks, queries, groups, k, count=count)
        look = _Look(table, queries, groups, k, count, inside, selector)
        hits = self._rounds(look, default_probes(self.lists, self.covered, k) if probes is None else max(1, probes))
        if inside == len(blocks):
            return hits
        later = pairs_of(search_exact(table.blocks[inside:], queries, groups, k, count=count))
        later = replace(later, rows=later.rows + self.covered)
        return top_images(Pairs.cat([pairs_of(hits), later]), count, k)

    def _rounds(self, look: _Look, probes: int) -> GroupedHits:
        """Look further and further for queries that have not found ``k`` images, at last everywhere."""
        fetch = CANDIDATES * KINDS[self.kind] * look.k
        hits = top_images(self._fetch(look, np.arange(len(look.queries)), fetch, probes), look.count, look.k)
        for number in range(1, ROUNDS + 1):
            open_rows = np.flatnonzero(hits.images[look.groups, -1] == NO_HIT)
            if not len(open_rows):
                break
            fetch, probes = fetch * GROWTH, probes * GROWTH
            more = self._fetch(look, open_rows, fetch, probes) if number < ROUNDS else look.exactly(open_rows)
            hits = top_images(Pairs.cat([pairs_of(hits), more]), look.count, look.k)
        return hits

    def _fetch(self, look: _Look, query_rows: NDArray[np.int64], fetch: int, probes: int) -> Pairs:
        """``fetch`` candidates of each of these query rows, with exact scores."""
        faiss = _faiss()
        faiss.omp_set_num_threads(torch.get_num_threads())
        kind = faiss.IVFPQSearchParameters if self.kind == "ivf_pq" else faiss.SearchParametersIVF
        options = {} if look.selector is None else {"sel": look.selector}
        parameters = kind(nprobe=min(probes, self.lists), **options)
        _, rows = self._index.search(look.queries[query_rows], min(fetch, self.covered), params=parameters)
        at, place = np.nonzero(rows >= 0)
        return look.pairs(rows[at, place], query_rows[at])

    def _covered_blocks(self, table: RowTable) -> int:
        """How many of the first blocks the structure was built over."""
        inside = int(np.searchsorted(table.starts, self.covered))
        if inside == len(table.starts) or table.starts[inside] != self.covered:
            raise ValueError(
                f"blocks: expected the first ones to hold the {self.covered} rows of the approximate search structure, "
                f"found blocks of {np.diff(table.starts).tolist()[:20]} rows"
            )
        return inside

    def _selector(self, blocks: Sequence[Block]) -> tuple[Any, int]:
        """What tells FAISS which rows are alive (None for all), and their number. Kept for the next search."""
        masks = [b.alive for b in blocks]
        if all(m is None for m in masks):
            return None, self.covered
        kept = self._filter
        if kept is None or not _same(kept[0], masks):
            alive = np.concatenate([np.ones(len(b), bool) if b.alive is None else b.alive for b in blocks])
            selector = _faiss().IDSelectorBitmap(np.packbits(alive, bitorder="little"))
            self._filter = kept = (masks, selector, int(np.count_nonzero(alive)))
        return kept[1:]


def _same(left: list[Any], right: list[Any]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def _sample(table: RowTable, size: int, seed: int) -> NDArray[np.float32]:
    """At most ``size`` rows, chosen by ``seed``."""
    size = min(size, len(table))
    rows = np.sort(np.random.default_rng(seed).choice(len(table), size, replace=False))
    return table.vectors(rows)


def _empty(faiss: ModuleType, kind: str, dim: int, lists: int, seed: int) -> Any:
    """An untrained structure."""
    coarse = faiss.IndexFlatIP(dim)
    if kind == "ivf_sq8":
        index = faiss.IndexIVFScalarQuantizer(
            coarse, dim, lists, faiss.ScalarQuantizer.QT_8bit, faiss.METRIC_INNER_PRODUCT
        )
    else:
        index = faiss.IndexIVFPQ(coarse, dim, lists, _sub_vectors(dim), PQ_BITS, faiss.METRIC_INNER_PRODUCT)
        index.pq.cp.seed = seed
    index.cp.seed = seed
    index.cp.spherical = True
    index.cp.min_points_per_centroid = 1
    return index


def _sub_vectors(dim: int) -> int:
    """Bytes of a product-quantised code: the largest divisor of ``dim`` that leaves 4 columns or more to each."""
    return max(m for m in range(1, max(1, dim // 4) + 1) if dim % m == 0)


def _faiss() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise ImportError("approximate search needs FAISS: pip install 'objemb[ann]'") from error
    return faiss
