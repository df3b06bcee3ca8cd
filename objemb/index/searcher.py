"""Answering queries on one published state."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock
from typing import Any

import numpy as np

from objemb.checks import ArtefactMismatchError
from objemb.index.blocks import Block, GroupedHits, Pairs, pairs_of, top_images
from objemb.index.dense_rows import dense_rows_of
from objemb.index.engines.base import Structure
from objemb.index.filters.evaluate import FilterEvaluator
from objemb.index.results import to_results
from objemb.index.storage.errors import DamagedIndexError
from objemb.index.storage.manifest import StructureRecord
from objemb.index.storage.schema import RowSchema
from objemb.index.storage.snapshot import Snapshot
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.structures import engine_named, engine_of, load_structure
from objemb.structures import Described, ImageRows, SearchResult
from objemb.types import Int64Array

logger = logging.getLogger(__name__)

#: From this many rows on, search is approximate where the index has a structure for it.
APPROXIMATE_ROWS = 200_000
#: A structure that covers a smaller share of the rows is not asked: most of the time goes into the exact search of the
#: others, and approximate search may miss what exact search finds.
LEAST_SHARE = 0.25
#: Filters whose rows are remembered.
REMEMBERED_FILTERS = 8


class Searcher:
    """Searches a snapshot, and remembers what further searches can use.

    Args:
        snapshot: The state to search.
        earlier: The searcher of an earlier state, of which what is loaded may still be right.
    """

    _exact: Structure[Any, Any]
    _filters: FilterEvaluator
    _structures: list[tuple[StructureRecord, Structure[Any, Any]]]

    def __init__(self, snapshot: Snapshot, earlier: Searcher | None = None) -> None:
        self._snapshot = snapshot
        self._exact = earlier._exact if earlier is not None else engine_named(snapshot.manifest.schema.engine).load({})
        self._filters = earlier._filters if earlier is not None else FilterEvaluator()
        self._filtered: OrderedDict[str, list[Block]] = OrderedDict()
        self._lock = Lock()  # a structure is loaded once
        loaded = earlier._structures if earlier is not None else []
        self._structures = [(r, s) for r, s in loaded if r in snapshot.manifest.structures]

    def search(
        self, queries: Sequence[Described], k: int, where: str | None, runners_up: int, exact: bool | None
    ) -> list[SearchResult]:
        """Answers to queries; the arguments are those of ``Index.search_many``."""
        k = min(k, max(1, self._snapshot.image_count))
        schema = self._snapshot.manifest.schema
        asked = [q for q in queries if len(q)]
        if not asked:
            return [_nothing(q, schema) for q in queries]
        blocks = self._blocks(where)
        rows = schema.queries(asked)
        groups = np.repeat(np.arange(len(asked), dtype=np.int64), [len(q) for q in asked])
        structure, covered = self._structure(exact)  # its errors name the files
        try:
            hits = self._find(structure, covered, blocks, rows, groups, k)
            if hits.scores.size:
                schema.check_score(float(hits.scores.max()), rows)
        except DamagedIndexError as error:
            raise DamagedIndexError(f"{self._snapshot.folder}: {error} ('objemb verify' tells which file)") from error
        answers = iter(to_results(self._snapshot, blocks, asked, hits, runners_up))
        return [next(answers) if len(q) else _nothing(q, schema) for q in queries]

    def find(self, where: str) -> list[str]:
        """Ids of the images with a region that fits a filter, in the order in which they were added."""
        ids = []
        for segment, block in zip(self._snapshot.segments, self._blocks(where), strict=True):
            numbers = np.unique(block.images if block.alive is None else block.images[block.alive])
            ids += [segment.image_id(int(p)) for p in np.searchsorted(segment.numbers, numbers)]
        return ids

    def dense_rows(self, where: str | None) -> ImageRows:
        """The vectors of live images that fit a filter, in one piece."""
        schema = self._snapshot.manifest.schema
        if schema.name != UnitVectors.name:
            raise ArtefactMismatchError(
                f"{self._snapshot.folder}: expected an index of {UnitVectors.name!r}, found one of {schema.name!r}"
            )
        return dense_rows_of(self._snapshot.segments, self._blocks(where), schema.dim)

    def _blocks(self, where: str | None) -> list[Block]:
        """The rows of live images that fit a filter; None for all of them."""
        if where is None:
            return self._snapshot.blocks
        blocks = self._filtered.get(where)
        if blocks is None:
            selected = self._filters.select(self._snapshot.segments, where)
            blocks = [b.among(s) for b, s in zip(self._snapshot.blocks, selected, strict=True)]
            self._filtered[where] = blocks
            while len(self._filtered) > REMEMBERED_FILTERS:
                self._filtered.popitem(last=False)
        return blocks

    def _find(
        self,
        structure: Structure[Any, Any],
        covered: int,
        blocks: Sequence[Block],
        rows: Any,
        groups: Int64Array,
        k: int,
    ) -> GroupedHits:
        """Hits of a structure over the first ``covered`` blocks, merged with exact search over the others."""
        hits = structure.search(rows, groups, k, blocks[:covered])
        if covered == len(blocks):
            return hits
        newer = pairs_of(self._exact.search(rows, groups, k, blocks[covered:]))
        newer = replace(newer, rows=newer.rows + self._snapshot.first_rows[covered])
        return top_images(Pairs.cat([pairs_of(hits), newer]), len(hits), k)

    def _structure(self, exact: bool | None) -> tuple[Structure[Any, Any], int]:
        """The structure to ask, and how many segments, from the first on, it covers."""
        snapshot, every = self._snapshot, len(self._snapshot.segments)
        large = snapshot.first_rows[-1] >= APPROXIMATE_ROWS
        for record in snapshot.manifest.structures:
            if exact is None and not (large and snapshot.covered_share(record) >= LEAST_SHARE):
                continue
            try:
                if exact and not engine_of(snapshot.folder, record).exact:
                    continue
                return self._loaded(record), record.segments
            except ImportError as error:
                if exact is False:
                    raise
                logger.warning("searching %s exactly: %s", snapshot.folder, error)
        if exact is False:
            raise ValueError(f"{snapshot.folder}: expected a search structure, found none; 'build_structure' makes one")
        return self._exact, every

    def _loaded(self, record: StructureRecord) -> Structure[Any, Any]:
        with self._lock:
            for known, structure in self._structures:
                if known == record:
                    return structure
            structure = load_structure(self._snapshot, record)
            self._structures.append((record, structure))
        return structure


def _nothing(query: Described, schema: RowSchema) -> SearchResult:
    """The answer to a query without rows."""
    return SearchResult(query.image, (), (), schema.scale)
