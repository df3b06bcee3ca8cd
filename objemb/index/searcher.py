"""Answering queries on one published state."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock

import numpy as np
import torch

from objemb.index.blocks import Block, GroupedHits
from objemb.index.dense_rows import DenseRows, dense_rows_of
from objemb.index.engines._ivf import IvfIndex
from objemb.index.engines.exact import search_exact
from objemb.index.filters.evaluate import FilterEvaluator
from objemb.index.results import to_results
from objemb.index.storage.errors import DamagedIndexError
from objemb.index.storage.snapshot import Snapshot
from objemb.index.storage.tables import UNIT_TOLERANCE
from objemb.index.structures import load_ann
from objemb.structures import RegionDescriptors, SearchResult

logger = logging.getLogger(__name__)

#: From this many rows on, search is approximate where the index has a structure for it.
APPROXIMATE_ROWS = 200_000
#: Encoding the vectors takes as long as searching this many query rows without codes.
ENCODE_AFTER = 16
#: No codes for larger indexes: they are held in memory, a byte per number.
MOST_CODE_BYTES = 1 << 30
#: Filters whose rows are remembered.
REMEMBERED_FILTERS = 8


class Searcher:
    """Searches a snapshot, and remembers what further searches can use.

    Args:
        snapshot: The state to search.
        earlier: The searcher of an earlier state, whose approximate structure may still be the right one.
    """

    _ivf: IvfIndex | None
    _filters: FilterEvaluator

    def __init__(self, snapshot: Snapshot, earlier: Searcher | None = None) -> None:
        self._snapshot = snapshot
        self._query_rows = 0
        self._filters = earlier._filters if earlier is not None else FilterEvaluator()
        self._filtered: OrderedDict[str, list[Block]] = OrderedDict()
        self._lock = Lock()  # the structure remembers its last filter
        same = earlier is not None and earlier._snapshot.manifest.ann == snapshot.manifest.ann
        self._ivf = earlier._ivf if earlier is not None and same else None

    def search(
        self, queries: Sequence[RegionDescriptors], k: int, where: str | None, runners_up: int, exact: bool | None
    ) -> list[SearchResult]:
        """Answers to queries; the arguments are those of ``Index.search_many``."""
        k = min(k, max(1, self._snapshot.image_count))
        asked = [q for q in queries if len(q)]
        if not asked:
            return [SearchResult(q.image, (), ()) for q in queries]
        blocks = self._blocks(where)
        vectors = torch.cat([q.vectors.detach().cpu() for q in asked]).numpy()
        groups = np.repeat(np.arange(len(asked), dtype=np.int64), [len(q) for q in asked])
        try:
            hits = self._find(blocks, vectors, groups, k, exact)
            _check_scores(hits, vectors)
        except DamagedIndexError as error:
            raise DamagedIndexError(f"{self._snapshot.folder}: {error} ('objemb verify' tells which file)") from error
        answers = iter(to_results(self._snapshot, blocks, asked, hits, runners_up))
        return [next(answers) if len(q) else SearchResult(q.image, (), ()) for q in queries]

    def find(self, where: str) -> list[str]:
        """Ids of the images with a region that fits a filter, in the order in which they were added."""
        found = []
        for segment, block in zip(self._snapshot.segments, self._blocks(where), strict=True):
            numbers = np.unique(block.images if block.alive is None else block.images[block.alive])
            found += [segment.image_id(int(p)) for p in np.searchsorted(segment.numbers, numbers)]
        return found

    def dense_rows(self, where: str | None) -> DenseRows:
        """The rows that may be found, in one piece."""
        return dense_rows_of(self._snapshot.segments, self._blocks(where), self._snapshot.manifest.dim)

    def _blocks(self, where: str | None) -> list[Block]:
        """The rows that may be found."""
        if where is None:
            return self._snapshot.blocks
        blocks = self._filtered.get(where)
        if blocks is None:
            selected = self._filters.select(self._snapshot.segments, where)
            blocks = [
                replace(b, alive=s if b.alive is None else s & b.alive)
                for b, s in zip(self._snapshot.blocks, selected, strict=True)
            ]
            self._filtered[where] = blocks
            while len(self._filtered) > REMEMBERED_FILTERS:
                self._filtered.popitem(last=False)
        return blocks

    def _find(
        self, blocks: Sequence[Block], vectors: np.ndarray, groups: np.ndarray, k: int, exact: bool | None
    ) -> GroupedHits:
        ivf = None if exact else self._approximate(required=exact is False)
        if ivf is None:
            return search_exact(self._coded(blocks, len(vectors)), vectors, groups, k)
        with self._lock:
            return ivf.search(vectors, groups, k, blocks)

    def _approximate(self, required: bool) -> IvfIndex | None:
        """The approximate structure, if it is there and of use."""
        snapshot = self._snapshot
        if not required and (snapshot.manifest.ann is None or snapshot.first_rows[-1] < APPROXIMATE_ROWS):
            return None
        try:
            with self._lock:
                self._ivf = self._ivf or load_ann(snapshot)
            return self._ivf
        except ImportError as error:
            if required:
                raise
            logger.warning("searching %s exactly: %s", snapshot.folder, error)
            return None

    def _coded(self, blocks: Sequence[Block], count: int) -> Sequence[Block]:
        """The blocks, with 8-bit codes once so much was searched that making the codes would have paid off."""
        self._query_rows += count
        manifest = self._snapshot.manifest
        if self._query_rows < ENCODE_AFTER or int(self._snapshot.first_rows[-1]) * manifest.dim > MOST_CODE_BYTES:
            return blocks
        return [replace(b, codes=s.codes) for b, s in zip(blocks, self._snapshot.segments, strict=True)]


def _check_scores(hits: GroupedHits, queries: np.ndarray) -> None:
    """Raise ``DamagedIndexError`` for scores that vectors of unit length cannot give."""
    if not hits.scores.size:
        return
    longest = float(np.sqrt(np.einsum("rd,rd->r", queries, queries, dtype=np.float64).max()))
    score = float(hits.scores.max())
    if not score <= 1.001 * (1 + UNIT_TOLERANCE) * longest:
        raise DamagedIndexError(f"expected vectors of unit length, found one that scores {score:.4g}")
