"""Answering queries on one published state: the rows to search, what searches them, and results with ids and boxes."""

from __future__ import annotations

import logging
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from threading import Lock
from typing import Any, overload

import numpy as np

from objemb.checks import ArtefactMismatchError, DamagedIndexError
from objemb.index.engines.base import AnyStructure
from objemb.index.filters.evaluate import FilterEvaluator
from objemb.index.storage import tables
from objemb.index.storage.blocks import Block
from objemb.index.storage.manifest import StructureRecord
from objemb.index.storage.schema import RowSchema
from objemb.index.storage.segment import Segment
from objemb.index.storage.snapshot import Snapshot
from objemb.index.storage.unit_vectors import UnitVectors
from objemb.index.structures import engine_named, engine_of, load_structure
from objemb.ops.scored_pairs import GroupedHits, Pairs, ScoredPair, pairs_of, top_images
from objemb.structures import Box, Described, ImageRows, LazyHits, Match, Scalar, SearchResult
from objemb.structures.fields import checked_box, checked_id
from objemb.types import BoolArray, Float32Array, FloatArray, Int64Array

logger = logging.getLogger(__name__)

#: From this many rows on, search is approximate where the index has a structure for it.
APPROXIMATE_ROWS = 200_000
#: A structure that covers a smaller share of the rows is not asked: most of the time goes into the exact search of the
#: others, and approximate search may miss what exact search finds.
MIN_SHARE = 0.25
#: Filters whose rows are remembered.
REMEMBERED_FILTERS = 8


class Searcher:
    """Searches a snapshot, and remembers what further searches can use.

    Args:
        snapshot: The state to search.
        earlier: The searcher of an earlier state, of which what is loaded may still be right.
    """

    _exact: AnyStructure
    _filters: FilterEvaluator
    _structures: list[tuple[StructureRecord, AnyStructure]]

    def __init__(self, snapshot: Snapshot, earlier: Searcher | None = None) -> None:
        self._snapshot = snapshot
        self._exact = earlier._exact if earlier is not None else engine_named(snapshot.manifest.schema.engine).load({})
        self._filters = earlier._filters if earlier is not None else FilterEvaluator()
        self._filtered: OrderedDict[str, list[Block]] = OrderedDict()
        self._lock = Lock()  # a structure is loaded once
        self._exact_engines: list[tuple[StructureRecord, bool]] = []
        loaded = earlier._structures if earlier is not None else []
        self._structures = [(r, s) for r, s in loaded if r in snapshot.manifest.structures]

    def search(
        self,
        queries: Sequence[Described],
        k: int,
        where: str | None,
        runners_up: int,
        exact: bool | None,
        named: bool,
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
        results = _results(self._snapshot, blocks, asked, hits, runners_up, named, not self._is_exact(structure))
        answers = iter(results)
        return [next(answers) if len(q) else _nothing(q, schema) for q in queries]

    def find(self, where: str) -> list[str]:
        """Ids of the images with a region that fits a filter, in the order in which they were added."""
        ids = []
        for segment, block in zip(self._snapshot.segments, self._blocks(where), strict=True):
            numbers = np.unique(block.images if block.alive is None else block.images[block.alive])
            ids += [segment.image_id(int(p)) for p in np.searchsorted(segment.numbers, numbers)]
        return ids

    def columns(self) -> list[str]:
        """Names of the metadata columns, sorted."""
        return sorted(self._filters.columns(self._snapshot.segments))

    def fitting(self, segment: Segment, position: int, where: str) -> BoolArray:
        """Which rows of the image at a position of a segment are alive and fit a filter: bool ``(n,)``."""
        number = next(n for n, known in enumerate(self._snapshot.segments) if known is segment)
        start, stop = segment.starts[position : position + 2].tolist()
        alive = self._blocks(where)[number].alive
        return np.ones(stop - start, bool) if alive is None else alive[start:stop].copy()

    def dense_rows(self, where: str | None) -> ImageRows:
        """The vectors of live images that fit a filter, in one piece."""
        return _dense_rows(self._snapshot.segments, self._blocks(where), self._vectors_schema().dim)

    def rows_of_images(self, images: Sequence[str], where: str | None) -> ImageRows:
        """The vectors of some images that fit a filter, in memory. Raises ``KeyError`` for an id that is not there."""
        snapshot, dim = self._snapshot, self._vectors_schema().dim
        if isinstance(images, FoundIds) and images.snapshot is snapshot:
            numbers = images.numbers
        else:
            numbers = np.array([_present(snapshot.number(id_), id_) for id_ in images], np.int64)
        places, _, rows = _where(snapshot, numbers)
        found = list(zip(places, rows, strict=True))
        every = [segment.columns["vectors"] for segment in snapshot.segments]
        vectors = [np.zeros((0, dim), np.float32), *(every[place][own] for place, own in found)]
        of_boxes = [segment.boxes for segment in snapshot.segments]
        boxes = [np.zeros((0, 4), np.float32), *(of_boxes[place][own] for place, own in found)]
        items = np.repeat(np.arange(len(images)), [own.stop - own.start for own in rows])
        joined = ImageRows(images, np.concatenate(vectors, dtype=np.float32), items, np.concatenate(boxes))
        masks = [block.alive for block in self._blocks(where)]
        if all(mask is None for mask in masks):
            return joined
        alive = ((masks[place], own) for place, own in found)
        fits = np.concatenate([np.ones(r.stop - r.start, bool) if mask is None else mask[r] for mask, r in alive])
        return ImageRows(joined.images, joined.vectors[fits], joined.items[fits], joined.boxes[fits])

    def named(self, hits: Sequence[Match]) -> list[Match]:
        """Hits with the metadata of their images, and with the labels of their boxes where these are stored ones.

        Raises:
            KeyError: An image is not in the index.
        """
        snapshot = self._snapshot
        numbers = np.array([_present(snapshot.number(hit.image), hit.image) for hit in hits], np.int64)
        named = []
        for hit, place, position, rows in zip(hits, *_where(snapshot, numbers), strict=True):
            segment, label = snapshot.segments[place], None
            if segment.label_names and hit.box in (boxes := _boxes(segment.boxes[rows].tolist())):
                label = segment.label(rows.start + boxes.index(hit.box))
            named.append(hit.named(label, segment.metadata(position)))
        return named

    def sample(self, count: int) -> Float32Array:
        """Vectors of live images, evenly spread over all of them: float32 ``(N, D)``, N at most ``count``."""
        parts, dim = [], self._vectors_schema().dim
        alive = [
            np.arange(s.record.rows) if b.alive is None else np.flatnonzero(b.alive)
            for s, b in zip(self._snapshot.segments, self._snapshot.blocks, strict=True)
        ]
        ends = np.cumsum([0, *map(len, alive)])
        picked = np.linspace(0, ends[-1], min(count, int(ends[-1])), endpoint=False).astype(np.int64)
        for segment, rows, first, stop in zip(self._snapshot.segments, alive, ends[:-1], ends[1:], strict=True):
            here = picked[(picked >= first) & (picked < stop)] - first
            parts.append(segment.columns["vectors"][rows[here]].astype(np.float32))
        return np.concatenate([np.zeros((0, dim), np.float32), *parts])

    def _vectors_schema(self) -> UnitVectors:
        schema = self._snapshot.manifest.schema
        if not isinstance(schema, UnitVectors):
            raise ArtefactMismatchError(
                f"{self._snapshot.folder}: expected an index of {UnitVectors.name!r}, found one of {schema.name!r}"
            )
        return schema

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
        structure: AnyStructure,
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

    def _structure(self, exact: bool | None) -> tuple[AnyStructure, int]:
        """The structure to ask, and how many segments, from the first on, it covers."""
        snapshot, every = self._snapshot, len(self._snapshot.segments)
        large = snapshot.first_rows[-1] >= APPROXIMATE_ROWS
        for record in snapshot.manifest.structures:
            if exact is None and not (large and snapshot.covered_share(record) >= MIN_SHARE):
                continue
            try:
                if exact and not self._has_exact_engine(record):
                    continue
                return self._loaded(record), record.segments
            except ImportError as error:
                if exact is False:
                    raise
                logger.warning("searching %s exactly: %s", snapshot.folder, error)
        if exact is False:
            raise ValueError(f"{snapshot.folder}: expected a search structure, found none; 'build_structure' makes one")
        return self._exact, every

    def _is_exact(self, structure: AnyStructure) -> bool:
        """Whether a structure misses nothing."""
        records = [record for record, loaded in self._structures if loaded is structure]
        return structure is self._exact or any(map(self._has_exact_engine, records))

    def _has_exact_engine(self, record: StructureRecord) -> bool:
        """Whether the engine of a structure misses nothing; remembered, because a look-up lists folders of plug-ins,
        which takes as long as half a search.

        Raises:
            ImportError, DamagedIndexError: As :func:`engine_of`.
        """
        for known, exact in self._exact_engines:
            if known == record:
                return exact
        exact = engine_of(self._snapshot.folder, record).exact
        self._exact_engines.append((record, exact))
        return exact

    def _loaded(self, record: StructureRecord) -> AnyStructure:
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


def _results(
    snapshot: Snapshot,
    blocks: Sequence[Block],
    queries: Sequence[Described],
    hits: GroupedHits,
    runners_up: int,
    named: bool,
    approximate: bool,
) -> list[SearchResult]:
    """Hits with ids, boxes, labels, metadata and the next best pairs of boxes.

    Args:
        snapshot: The state that was searched.
        blocks: The blocks that were searched, one per segment; rows that are not alive are no runners-up either.
        queries: Q queries of one or more regions each.
        hits: ``(Q, k)``; ``query_rows`` counts through the regions of all queries.
        runners_up: How many further pairs to give per image.
        named: Whether hits get labels and metadata.
        approximate: Whether the search may have missed images.
    """
    first_query_row = 0
    answers = []
    metadata: dict[int, dict[str, Scalar]] = {}  # images that several queries found have one copy
    for number, query in enumerate(queries):
        boxes = _boxes(query.regions.boxes.tolist())
        found = _FoundImages.of(snapshot, hits, number, first_query_row)
        if named or runners_up:
            if len(set(found.ids)) != len(found.ids):
                raise DamagedIndexError(f"{snapshot.folder}: expected every id once, found an image twice")
            rows = snapshot.manifest.schema.queries([query])
            pairs = _pairs(snapshot, blocks, found, rows, runners_up)
            matches: Sequence[Match] = tuple(
                found.match(at, boxes, of_image, metadata if named else None) for at, of_image in enumerate(pairs)
            )
        else:
            make = partial(_lone_match, found, boxes)
            matches = LazyHits(found.ids, make)
        scale = snapshot.manifest.schema.scale
        answers.append(SearchResult(query.image, tuple(boxes), matches, scale, approximate=approximate))
        first_query_row += len(query)
    return answers


def _lone_match(found: _FoundImages, query_boxes: Sequence[Box], at: int) -> Match:
    """A hit without runners-up, label and metadata."""
    (score, row, of_query), id_ = found.best(at), found.ids[at]
    box = found.snapshot.segments[found.places[at]].boxes[row].tolist()
    try:
        checked_id("Match.image", id_)
        if not math.isfinite(score):
            raise ValueError(f"Match.score: expected a finite number, found {score}")
        return Match.of_pairs(id_, [(score, checked_box("Match.box", box), query_boxes[of_query])])
    except ValueError as error:
        raise found.damaged(at, error) from error


def _pairs(
    snapshot: Snapshot, blocks: Sequence[Block], found: _FoundImages, query: Any, count: int
) -> list[list[ScoredPair]]:
    """The best pairs of each image with a query, ``count`` and one at most."""
    pairs: list[list[ScoredPair]] = [[] for _ in found.places]
    for place in set(found.places):
        here = [n for n, other in enumerate(found.places) if other == place]
        try:
            of_block = blocks[place].pairs_of_images(
                [found.rows(n) for n in here], [found.best(n) for n in here], query, count
            )
        except (ValueError, TypeError, DamagedIndexError) as error:
            raise DamagedIndexError(f"{snapshot.folder}: {error} ('objemb verify' tells which file)") from error
        for n, of_image in zip(here, of_block, strict=True):
            pairs[n] = of_image
    return pairs


class FoundIds(Sequence[str]):
    """Ids of images of a snapshot, which are read when they are asked for: most of a re-ranked search never are.

    Args:
        snapshot: Where they are.
        numbers: int64 ``(n,)``, their numbers among all images.
        places: The segment of each.
        positions: Its position there.
    """

    def __init__(
        self, snapshot: Snapshot, numbers: Int64Array, places: Sequence[int], positions: Sequence[int]
    ) -> None:
        self.snapshot = snapshot
        self.numbers = numbers
        self._places = places
        self._positions = positions

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> FoundIds: ...
    def __getitem__(self, index: int | slice) -> str | FoundIds:
        if isinstance(index, slice):
            return FoundIds(self.snapshot, self.numbers[index], self._places[index], self._positions[index])
        id_ = self.snapshot.segments[self._places[index]].image_id(self._positions[index])
        self.snapshot.remember([id_], [int(self.numbers[index])])
        return id_


@dataclass(frozen=True, eq=False, slots=True)
class _FoundImages:
    """The images that a query found, best first, as columns.

    Attributes:
        snapshot: Where they are.
        numbers: Their numbers through all segments.
        places: The segment of each.
        positions: Its position there.
        ids: Its id.
        scores: The score of the pair that the search returned.
        best_rows: Its row through all segments.
        query_rows: Its row of the query.
    """

    snapshot: Snapshot
    numbers: list[int]
    places: list[int]
    positions: list[int]
    ids: FoundIds
    scores: list[float]
    best_rows: list[int]
    query_rows: list[int]

    @staticmethod
    def of(snapshot: Snapshot, hits: GroupedHits, number: int, first_query_row: int) -> _FoundImages:
        """The images of the query with a number, whose first row is given."""
        ranks = np.flatnonzero(hits.images[number] >= 0)
        rows = hits.rows[number, ranks]
        places, shifts = snapshot.first_rows.searchsorted(rows, side="right") - 1, snapshot.image_shifts
        if shifts is not None:
            numbers = hits.images[number, ranks] + shifts[places]
        else:
            numbers = snapshot.image_starts.searchsorted(rows, side="right") - 1
        positions = (numbers - snapshot.first_images[places]).tolist()
        in_segments = places.tolist()
        ids = FoundIds(snapshot, numbers, in_segments, positions)
        scores, query_rows = hits.scores[number, ranks].tolist(), hits.query_rows[number, ranks] - first_query_row
        return _FoundImages(
            snapshot, numbers.tolist(), in_segments, positions, ids, scores, rows.tolist(), query_rows.tolist()
        )

    def best(self, at: int) -> ScoredPair:
        """The pair that the search returned, with its row in the segment."""
        row = self.best_rows[at] - int(self.snapshot.first_rows[self.places[at]])
        return self.scores[at], row, self.query_rows[at]

    def rows(self, at: int) -> slice:
        """The rows of an image in its segment."""
        starts = self.snapshot.segments[self.places[at]].starts
        return slice(*starts[self.positions[at] : self.positions[at] + 2].tolist())

    def match(
        self,
        at: int,
        query_boxes: Sequence[Box],
        pairs: Sequence[ScoredPair],
        metadata: dict[int, dict[str, Scalar]] | None,
    ) -> Match:
        """A hit.

        Args:
            at: Which one.
            query_boxes: The boxes of the query.
            pairs: Its best pair, then its runners-up.
            metadata: Metadata of images by number, extended here; None for a hit without label and metadata.
        """
        segment, number, id_ = self.snapshot.segments[self.places[at]], self.numbers[at], self.ids[at]
        if metadata is not None and number not in metadata:
            metadata[number] = segment.metadata(self.positions[at])
        own = {} if metadata is None else metadata[number]

        def match(pair: ScoredPair, others: tuple[Match, ...] = ()) -> Match:
            score, row, of_query = pair
            x1, y1, x2, y2 = segment.boxes[row].tolist()
            label = None if metadata is None else segment.label(row)
            return Match(id_, score, (x1, y1, x2, y2), query_boxes[of_query], label, own, others)

        try:
            best, *others = pairs
            return match(best, tuple(map(match, others)))
        except (ValueError, TypeError, DamagedIndexError) as error:
            raise self.damaged(at, error) from error

    def damaged(self, at: int, error: Exception) -> DamagedIndexError:
        """The error of a hit that cannot be made: the query has been checked, so what the index holds is wrong."""
        return DamagedIndexError(f"{self.snapshot.folder}: image {self.ids[at]!r}: {error}")


def _where(snapshot: Snapshot, numbers: Int64Array) -> tuple[list[int], list[int], list[slice]]:
    """The segments of some images, numbered through all segments, and their positions and rows there."""
    places = snapshot.first_images.searchsorted(numbers, side="right") - 1
    first, ends = snapshot.image_starts[numbers], snapshot.image_starts[numbers + 1]
    before = snapshot.first_rows[places]
    rows = map(slice, (first - before).tolist(), (ends - before).tolist())
    return places.tolist(), (numbers - snapshot.first_images[places]).tolist(), list(rows)


def _present(number: int | None, image: str) -> int:
    """The number of an image. Raises ``KeyError`` if it has none."""
    if number is None:
        raise KeyError(image)
    return number


def _boxes(boxes: list[list[float]]) -> list[Box]:
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in boxes]


def _dense_rows(segments: Sequence[Segment], blocks: Sequence[Block], dim: int) -> ImageRows:
    """The unit vectors of all segments that are alive in ``blocks``, one per segment.

    Images stand in the order in which they were added. Vectors are the mapped file itself where the index is a single
    segment of float32 in which all rows are alive (as after ``compact``), otherwise a copy in memory.
    """
    alive = [slice(None) if b.alive is None else np.flatnonzero(b.alive) for b in blocks]
    images: list[str] = []
    items = [np.zeros(0, np.int64)]
    for segment, block, rows in zip(segments, blocks, alive, strict=True):
        numbers, of_rows = np.unique(block.images[rows], return_inverse=True)
        items.append(of_rows + len(images))
        ids = segment.images.column("id").take(np.searchsorted(segment.numbers, numbers)).to_pylist()
        images += [tables.to_text(i) for i in ids]
    boxes = [np.zeros((0, 4), np.float32), *(s.boxes[rows] for s, rows in zip(segments, alive, strict=True))]
    vectors = _dense([s.columns["vectors"] for s in segments], alive, dim)
    return ImageRows(tuple(images), vectors, np.concatenate(items), np.concatenate(boxes))


def _dense(vectors: Sequence[FloatArray], rows: Sequence[slice | Int64Array], dim: int) -> Float32Array:
    if len(vectors) == 1 and vectors[0].dtype == np.float32 and isinstance(rows[0], slice):
        return vectors[0]
    counts = [len(v) if isinstance(r, slice) else len(r) for v, r in zip(vectors, rows, strict=True)]
    ends = np.cumsum([0, *counts])
    dense = np.empty((int(ends[-1]), dim), dtype=np.float32)
    for number, (some, here) in enumerate(zip(vectors, rows, strict=True)):
        dense[ends[number] : ends[number + 1]] = some[here]
    return dense
