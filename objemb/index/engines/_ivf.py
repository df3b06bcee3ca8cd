"""Approximate search with FAISS: candidates from an inverted file, always scored again from the stored vectors.

Rows are assigned to lists by k-means centroids and stored there as compact codes, which depend on the engine. A query
probes the few lists nearest to it. Scores and matched rows are exact for all rows that were probed; images whose rows
are in other lists may be missed.
"""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from objemb import checks
from objemb.checks import DamagedIndexError
from objemb.index.engines.base import ByteOutput, Engine, OnProgress, Structure, ignored
from objemb.index.engines.exact import search_exact
from objemb.index.storage.blocks import RowTable, VectorBlock, checked_queries, pair_scores
from objemb.ops.faiss import clusters, faiss_library
from objemb.ops.scored_pairs import NO_HIT, GroupedHits, Pairs, pairs_of, top_images
from objemb.types import BoolArray, Buffer, Float32Array, Int64Array

if TYPE_CHECKING:
    from objemb.ops.faiss import IndexIVF, SearchParameters

#: The one file of a structure.
FILE = "index"
#: Rows per list below which more lists do not pay off, and sampled rows per list for k-means.
ROWS_PER_LIST, SAMPLE_PER_LIST = 64, 64
#: Rows of the sample, at least.
SAMPLE = 1 << 14
#: Rounds of k-means at most.
KMEANS_ROUNDS = 10
#: Rows that a row of a query scores in its lists, in all and per image that it is to bring.
ROWS_LOOKED_AT, ROWS_PER_IMAGE = 2048, 64
#: Up to so many images, each row of a query is to bring all that are wanted.
FEW_IMAGES = 10
#: Number of rows that are added to the structure at a time.
ROWS_PER_STEP = 1 << 16
#: Candidates per image that a row is to bring in the first round; every further round takes this many times more of
#: them, from as many times more lists.
CANDIDATES, GROWTH = 3, 4
#: Rounds after which what is still missing is searched exactly.
ROUNDS = 3
#: Below this share of rows that may be returned, exact search over these rows is both faster and complete.
SELECTIVE = 0.05


class IvfEngine(Engine[Float32Array, VectorBlock]):
    """An inverted file of FAISS, which searches on as many threads as PyTorch if PyTorch is in use.

    Attributes:
        coarseness: Factor on the number of candidates that are scored again, larger for less accurate codes; may depend
            on settings.
        least_rows: Minimum number of rows for training.

    Args:
        lists: Number of inverted lists; by default :func:`default_lists` of the number of rows.
        seed: Seed of the sample and of k-means.
    """

    accepts = frozenset({"unit_vectors"})
    coarseness: int = 1
    least_rows: ClassVar[int] = 1

    def __init__(self, lists: int | None = None, seed: int = 0) -> None:
        self.lists = None if lists is None else checks.whole("lists", lists)
        self.seed = checks.whole("seed", seed, 0)

    @abstractmethod
    def untrained(self, faiss: ModuleType, dim: int, lists: int) -> IndexIVF:
        """An empty inverted file of inner products for vectors of this length."""

    @abstractmethod
    def made(self, faiss: ModuleType, index: object) -> bool:
        """Whether a structure of FAISS is of the kind that this engine builds."""

    def parameters(self, faiss: ModuleType, **options: object) -> SearchParameters:
        """The search parameters for FAISS."""
        parameters: SearchParameters = faiss.SearchParametersIVF(**options)
        return parameters

    def build(self, blocks: Sequence[VectorBlock], on_progress: OnProgress = ignored) -> IvfStructure:
        """As :meth:`objemb.index.engines.base.Engine.build`. The unit of work is a vector that is assigned to a list,
        which takes most of the time; those of the sample are assigned in every round of k-means."""
        faiss = faiss_library("approximate search")
        table = RowTable(blocks)
        if not len(table):
            raise ValueError("blocks: expected at least one row, found none")
        if len(table) < self.least_rows:
            raise ValueError(f"blocks: expected at least {self.least_rows} rows to train codes, found {len(table)}")
        most = default_lists(len(table)) if self.lists is None else checks.between("lists", self.lists, 1, len(table))
        index = self.untrained(faiss, table.dim or 0, most)
        sample = _sample(table, max(SAMPLE_PER_LIST * most, SAMPLE), self.seed)
        done, total = KMEANS_ROUNDS * len(sample), KMEANS_ROUNDS * len(sample) + len(table)
        centres = clusters(
            sample,
            most,
            iterations=KMEANS_ROUNDS,
            seed=self.seed,
            spherical=True,
            on_round=lambda number, rounds: on_progress(number * len(sample), total),
        )
        index.quantizer.add(centres)
        index.train(sample)  # the codes alone, since there are centres
        for block in blocks:
            for start in range(0, len(block), ROWS_PER_STEP):
                rows = np.ascontiguousarray(block.vectors[start : start + ROWS_PER_STEP], dtype=np.float32)
                index.add(rows)
                done += len(rows)
                on_progress(done, total)
        return IvfStructure(index, self)

    def load(self, files: Mapping[str, Buffer]) -> IvfStructure:
        """As :meth:`objemb.index.engines.base.Engine.load`."""
        faiss = faiss_library("approximate search")
        if set(files) != {FILE}:
            raise DamagedIndexError(f"expected the file {FILE!r} of an inverted file, found {checks.listed(files)}")
        view, at = memoryview(files[FILE]).cast("B"), 0

        def step(count: int) -> bytes:
            nonlocal at
            at += count
            return bytes(view[at - count : at])

        try:
            index = faiss.read_index(faiss.PyCallbackIOReader(step))
        except RuntimeError as error:
            raise DamagedIndexError(f"cannot be read as an inverted file: {error}") from error
        if not self.made(faiss, index) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
            found = type(index).__name__
            raise DamagedIndexError(f"expected an inverted file of {self.registry_name!r}, found {found}")
        return IvfStructure(index, self)


def default_lists(rows: int) -> int:
    """Number of lists: 2 sqrt(rows) as a power of two, of ``ROWS_PER_LIST`` rows or more; 2048 for a million rows."""
    wanted = min(2 * rows**0.5, rows / ROWS_PER_LIST)
    return 1 << max(0, round(math.log2(max(wanted, 1))))


def images_per_row(k: int, query_rows: int) -> int:
    """How many of the ``k`` images of a query each of its rows is to bring.

    Rows that look for different things bring ``k / query_rows`` each, rows that look for the same thing all of them:
    the number is the geometric mean of both, but no less than 10, or ``k`` if that is less.
    """
    return max(math.ceil(k / math.sqrt(query_rows)), min(k, FEW_IMAGES))


def default_probes(lists: int, rows: int, k: int) -> int:
    """Number of lists to probe for ``k`` images: as many as hold 2048 rows and 64 rows per image, at least 4.

    Above 2048 lists it is at least one of 512. Of a million rows in 2048 lists: 5 for 10 images, 14 for 100.
    """
    wanted = max(ROWS_LOOKED_AT, ROWS_PER_IMAGE * k) * lists / max(rows, 1)
    return min(lists, max(4, lists // 512, math.ceil(wanted)))


@dataclass(frozen=True, eq=False)
class _SearchState:
    """The arguments of one search."""

    table: RowTable
    queries: Float32Array
    groups: Int64Array
    k: int
    count: int
    selector: object

    def pairs(self, found: Int64Array, chosen: BoolArray, query_rows: Int64Array) -> Pairs:
        """Pairs with exact scores, by row: the order in which the rows are stored and quickly read.

        Args:
            found: int64 ``(n, C)``, candidates of n query rows.
            chosen: bool ``(n, C)``, those that are scored.
            query_rows: int64 ``(n,)``.
        """
        at, place = chosen.nonzero()
        rows = found[at, place]
        order = rows.argsort(kind="stable")
        rows, query_rows = rows[order], query_rows[at[order]]
        scores = pair_scores(self.table, rows, self.queries, query_rows)
        return Pairs(rows, query_rows, self.groups[query_rows], self.table.images(rows), scores)

    def exactly(self, query_rows: Int64Array) -> Pairs:
        """The best pairs of these query rows among all rows."""
        queries, groups = self.queries[query_rows], self.groups[query_rows]
        pairs = pairs_of(search_exact(self.table.blocks, queries, groups, self.k, count=self.count))
        return replace(pairs, query_rows=query_rows[pairs.query_rows])


class IvfStructure(Structure[Float32Array, VectorBlock]):
    """An inverted file over the rows of some blocks.

    Attributes:
        lists: Number of inverted lists.
    """

    covered: int
    dim: int

    def __init__(self, index: IndexIVF, engine: IvfEngine) -> None:
        self._index = index
        self._engine = engine
        self.dim, self.covered, self.lists = int(index.d), int(index.ntotal), int(index.nlist)
        self._filter: tuple[list[BoolArray | None], object, int] | None = None
        self._parameters: dict[int, SearchParameters] = {}  # without a filter, by number of probes

    def write(self, create: Callable[[str], ByteOutput]) -> None:
        """As :meth:`objemb.index.engines.base.Structure.write`; one file."""
        faiss, file = faiss_library("approximate search"), create(FILE)
        failed: list[BaseException] = []

        def step(data: bytes) -> None:
            try:
                file.write(data)
            except BaseException as error:  # FAISS would turn it into a RuntimeError
                failed.append(error)
                raise

        try:
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(step))
        except RuntimeError:
            if failed:
                raise failed[0] from None
            raise

    def search(
        self,
        queries: Float32Array,
        groups: Int64Array,
        k: int,
        blocks: Sequence[VectorBlock],
        *,
        count: int | None = None,
        probes: int | None = None,
    ) -> GroupedHits:
        """As :meth:`objemb.index.engines.base.Structure.search`.

        More lists are probed until there are ``k`` distinct images. If three rounds are not enough, or few rows are
        alive, the search is exact.

        Args:
            queries: See :meth:`objemb.index.engines.base.Structure.search`, also for the next four.
            probes: Number of lists probed at first; by default :func:`default_probes`.
        """
        table = RowTable(blocks)
        queries, groups, count = checked_queries(table, queries, groups, k, count)
        if len(table) != self.covered:
            raise ValueError(
                f"blocks: expected the {self.covered} rows that the inverted file was built over, found {len(table)}"
            )
        if queries.shape[1] != self.dim:
            raise ValueError(f"queries: expected {self.dim} columns, found {queries.shape[1]}")
        selector, alive = self._selector(table.blocks)
        if alive < SELECTIVE * self.covered:
            return search_exact(blocks, queries, groups, k, count=count)
        state = _SearchState(table, queries, groups, k, count, selector)
        sizes = np.bincount(groups, minlength=count)
        found = []
        for size in sorted(set(sizes.tolist()) - {0}):  # so that an answer does not depend on the other queries
            share = images_per_row(k, size)
            first = default_probes(self.lists, self.covered, share) if probes is None else max(1, probes)
            found.append(self._rounds(state, np.flatnonzero(sizes[groups] == size), share, first))
        if len(found) == 1:
            return found[0]
        return top_images(Pairs.cat([pairs_of(hits) for hits in found]), count, k)

    def _rounds(self, state: _SearchState, query_rows: Int64Array, share: int, probes: int) -> GroupedHits:
        """Search among the best candidates, then among all of them, then in more and more lists, finally in all, for
        queries with fewer than ``k`` images.

        Args:
            state: The arguments of the search.
            query_rows: All rows of some of the queries.
            share: How many images each of these rows is to bring.
            probes: Number of lists probed at first.
        """
        wanted = CANDIDATES * self._engine.coarseness
        candidates = wanted * share
        scores, rows = self._probe(state, query_rows, candidates, probes)
        likely = _best_candidates(scores, rows, state.groups[query_rows], wanted * state.k)
        pairs = state.pairs(rows, likely, query_rows)
        hits = top_images(pairs, state.count, state.k)
        for number in range(ROUNDS + 1):
            missing = hits.images[state.groups[query_rows], -1] == NO_HIT
            incomplete = query_rows[missing]
            if not len(incomplete):
                break
            if number == 0:
                more = state.pairs(rows, (rows >= 0) & ~likely & missing[:, None], query_rows)
            elif number == ROUNDS:
                more = state.exactly(incomplete)
            else:
                candidates, probes = candidates * GROWTH, probes * GROWTH
                _, rows = self._probe(state, incomplete, candidates, probes)
                more = state.pairs(rows, rows >= 0, incomplete)
            hits = top_images(Pairs.cat([pairs_of(hits), more]), state.count, state.k)
        return hits

    def _probe(
        self, state: _SearchState, query_rows: Int64Array, candidates: int, probes: int
    ) -> tuple[Float32Array, Int64Array]:
        """Candidates of some query rows, each from its ``probes`` nearest lists.

        Returns:
            float32 ``(n, C)`` approximate scores, falling, and int64 ``(n, C)`` rows; negative where there are no more.
        """
        faiss = faiss_library("approximate search")
        torch = sys.modules.get("torch")
        if torch is not None:
            faiss.omp_set_num_threads(torch.get_num_threads())
        probes = min(probes, self.lists)
        if state.selector is None and probes not in self._parameters:
            self._parameters[probes] = self._engine.parameters(faiss, nprobe=probes)
        parameters = (
            self._parameters[probes]
            if state.selector is None
            else self._engine.parameters(faiss, nprobe=probes, sel=state.selector)
        )
        scores, rows = self._index.search(state.queries[query_rows], min(candidates, self.covered), params=parameters)
        if rows.size and rows.max() >= self.covered:
            raise DamagedIndexError(
                f"expected an inverted file of the rows 0 to {self.covered - 1}, found one that names row {rows.max()}"
            )
        return scores, rows

    def _selector(self, blocks: Sequence[VectorBlock]) -> tuple[object, int]:
        """The FAISS selector of alive rows (None for all), and their number. Cached for the next search."""
        masks = [b.alive for b in blocks]
        if all(m is None for m in masks):
            return None, self.covered
        kept = self._filter  # read once, because another thread may replace it
        if kept is None or not _same(kept[0], masks):
            alive = np.concatenate([np.ones(len(b), bool) if b.alive is None else b.alive for b in blocks])
            selector = faiss_library("approximate search").IDSelectorBitmap(np.packbits(alive, bitorder="little"))
            self._filter = kept = (masks, selector, int(np.count_nonzero(alive)))
        return kept[1:]


def _best_candidates(scores: Float32Array, rows: Int64Array, groups: Int64Array, count: int) -> BoolArray:
    """Which candidates are among the ``count`` best of their query, and equal ones: bool ``(n, C)``.

    Args:
        scores: float32 ``(n, C)``, approximate.
        rows: int64 ``(n, C)``; negative for none.
        groups: int64 ``(n,)``, the query of each of the n rows, ascending; all queries have equally many.
        count: Candidates of a query.
    """
    there: BoolArray = rows >= 0
    if not len(groups):
        return there
    of_queries = scores.reshape(int((groups[1:] != groups[:-1]).sum()) + 1, -1)
    if count >= of_queries.shape[1]:
        return there
    limits = -np.partition(-of_queries, count - 1, axis=1)[:, count - 1]
    there &= scores >= limits.repeat(len(scores) // len(limits))[:, None]
    return there


def _same(left: Sequence[object], right: Sequence[object]) -> bool:
    return len(left) == len(right) and all(a is b for a, b in zip(left, right, strict=True))


def _sample(table: RowTable, size: int, seed: int) -> Float32Array:
    """At most ``size`` rows, chosen by ``seed``."""
    size = min(size, len(table))
    rows = np.sort(np.random.default_rng(seed).choice(len(table), size, replace=False))
    return table.vectors(rows)
