"""Searching an index at an address: the store finds rows, and which photos they make the best is decided here.

A store gives the rows that are closest to a vector, with scores in its own arithmetic. The photos of these rows are
read whole and searched as in a folder, by :func:`objemb.index.engines.exact.search_exact`: the same scores to the last
bit, the same ties, the same pairs of boxes. More rows are asked for until no row that was not given can change the
answer: all of those score at most as the last one that was given, up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from objemb.index.engines.exact import FLOAT32_ROUNDING, search_exact
from objemb.index.remote.filters import RowFilter
from objemb.index.remote.header import Header
from objemb.index.remote.rows import COLUMNS, NO_BOX, corners, metadata_of, numbers, vectors_of, whole_photos
from objemb.index.remote.writer import batches
from objemb.index.storage.blocks import VectorBlock
from objemb.index.stores.base import Nearest, Store
from objemb.ops.scored_pairs import NO_HIT, GroupedHits
from objemb.structures import Box, Match, RegionDescriptors, SearchResult
from objemb.types import BoolArray, Float32Array, Int64Array

#: Rows that are asked for at first, for each photo of the answer; and how many times as many while they do not suffice.
ROWS_PER_PHOTO, MORE = 4, 4
#: Photos that are read at once.
READ_AT_ONCE = 500
#: With fewer rows that match a filter, search is exact.
EXACT_ROWS = 20_000


class RemoteSearch:
    """Searches one generation of an index at an address.

    Args:
        store: The store.
        header: The generation.
    """

    def __init__(self, store: Store, header: Header) -> None:
        self._store, self._header = store, header

    def best(
        self, query: RegionDescriptors, k: int, where: RowFilter | None, runners_up: int, *, exact: bool, named: bool
    ) -> SearchResult:
        """The ``k`` best images of a query with at least one row, with an exact search or an approximate one.

        Args:
            query: The query.
            k: Number of images.
            where: The filter.
            runners_up: Further pairs of boxes of each image.
            exact: Whether no image may be missed.
            named: Whether hits have labels and metadata.
        """
        if not exact and where is not None:
            exact = self._store.count(self._header.generation, where.asked, EXACT_ROWS) < EXACT_ROWS
        photos = _Photos(self._store, self._header, where)
        hits = self._search(query, k, photos, exact=exact)
        if hits is None:
            hits = self._search(query, k, photos, exact=True)
            exact = True
        assert hits is not None, "an exact search always ends"
        return _result(query, photos, hits, runners_up, self._header.schema.scale, named=named, approximate=not exact)

    def _search(self, query: RegionDescriptors, k: int, photos: _Photos, *, exact: bool) -> GroupedHits | None:
        """The hits; None if an approximate search found too few rows to tell."""
        count = max(k * ROWS_PER_PHOTO, 64)
        asked = None if photos.where is None else photos.where.asked
        # a product of float32 numbers is off by so much at most, here and in the store
        slack = np.linalg.norm(query.vectors, axis=1) * (2 * FLOAT32_ROUNDING * query.dim)
        while True:
            found = self._store.nearest(self._header.generation, query.vectors, count, asked, exact=exact)
            ended = [len(nearest.images) < count for nearest in found]
            ranked, scores = _by_best(found, slack)
            last = max(
                (float(n.scores[-1]) + s for n, s, end in zip(found, slack, ended, strict=True) if not end),
                default=-np.inf,
            )
            hits = self._among(query, k, photos, ranked, scores)
            places = hits.images[0] != NO_HIT
            kth = float(hits.scores[0, k - 1]) if places.all() else -np.inf
            if all(ended) or kth > last:
                return hits if exact or places.all() or not any(ended) else None
            if not exact and any(ended) and not places.all():
                return None
            count *= MORE

    def _among(
        self, query: RegionDescriptors, k: int, photos: _Photos, ranked: Sequence[str], upper: Float32Array
    ) -> GroupedHits:
        """The best images among some.

        Args:
            query: The query.
            k: Number of images.
            photos: What was read of them; more is read here.
            ranked: Images, those of higher scores first.
            upper: float32, not below the exact score of each, descending.
        """
        groups = np.zeros(len(query), np.int64)
        step = max(k + 8, 32)
        first = 0
        while True:
            photos.read(ranked[first : first + step])
            first += step
            hits = search_exact([photos.block()], query.vectors, groups, k, count=1)
            enough = (hits.images[0] != NO_HIT).all()
            if first >= len(ranked) or (enough and float(hits.scores[0, -1]) > float(upper[first])):
                return hits


class _Photos:
    """Photos that were read from a store, whole, for one search.

    Attributes:
        where: The filter of the search.
        rows: Their rows with a box, by number, image and box.
    """

    def __init__(self, store: Store, header: Header, where: RowFilter | None) -> None:
        self._store, self._header = store, header
        self.where = where
        self._seen: set[str] = set()
        self._parts: list[pa.Table] = []
        self.rows: pa.Table | None = None
        self.fits: BoolArray | None = None
        self._block: VectorBlock | None = None
        self.starts: Int64Array = np.zeros(1, np.int64)

    def read(self, images: Sequence[str]) -> None:
        """Read the photos among these that were not read yet."""
        new = [image for image in dict.fromkeys(images) if image not in self._seen]
        self._seen.update(new)
        for some in batches(new, READ_AT_ONCE):
            rows = self._store.rows(self._header.generation, some, (*COLUMNS, "vector"))
            whole = whole_photos(rows)
            whole = whole.filter(pa.compute.not_equal(whole["box"], NO_BOX))
            if whole.num_rows:
                self._parts.append(whole)
                self._block = None

    def block(self) -> VectorBlock:
        """The rows that fit the filter, as they are searched; images are numbered in order."""
        if self._block is None:
            if not self._parts:
                empty = np.zeros((0, self._header.schema.dim), np.float32)
                return VectorBlock(empty, np.zeros(0, np.int64))
            order = [(name, "ascending") for name in ("number", "image", "box")]
            rows = pa.concat_tables(self._parts).sort_by(order).combine_chunks()
            starts = np.flatnonzero(numbers(rows, "box") == 0)
            images = np.repeat(np.arange(len(starts)), np.diff(starts, append=rows.num_rows))
            self.rows, self.starts = rows, np.append(starts, rows.num_rows)
            self.fits = None if self.where is None else self.where.fits(rows)
            self._block = VectorBlock(vectors_of(rows), images, self.fits)
        return self._block


def _by_best(found: Sequence[Nearest], slack: Float32Array) -> tuple[list[str], Float32Array]:
    """The images of rows for several vectors, best first, and a bound of the score of each."""
    best: dict[str, float] = {}
    for nearest, more in zip(found, slack.tolist(), strict=True):
        for image, score in zip(nearest.images, nearest.scores.tolist(), strict=True):
            bound = score + more
            if bound > best.get(image, -np.inf):
                best[image] = bound
    ranked = sorted(best, key=lambda image: -best[image])
    return ranked, np.array([best[image] for image in ranked], np.float32)


def _result(
    query: RegionDescriptors,
    photos: _Photos,
    hits: GroupedHits,
    runners_up: int,
    scale: str,
    *,
    named: bool,
    approximate: bool,
) -> SearchResult:
    asked = [_box(box) for box in query.regions.boxes.tolist()]
    matches = []
    if photos.rows is not None:
        block, rows, boxes = photos.block(), photos.rows, corners(photos.rows).tolist()
        there = hits.images[0] != NO_HIT
        images = [slice(*photos.starts[n : n + 2].tolist()) for n in hits.images[0][there].tolist()]
        columns = (hits.scores[0][there].tolist(), hits.rows[0][there].tolist(), hits.query_rows[0][there].tolist())
        best = list(zip(*columns, strict=True))
        for pairs in block.pairs_of_images(images, best, query.vectors, runners_up):
            row = pairs[0][1]
            image = rows["image"][row].as_py()
            metadata = metadata_of(rows["metadata"][row].as_py()) if named else {}
            several = [
                Match(image, score, _box(boxes[r]), asked[q], rows["label"][r].as_py() if named else None, metadata)
                for score, r, q in pairs
            ]
            first = several[0]
            matches.append(
                Match(image, first.score, first.box, first.query_box, first.label, metadata, tuple(several[1:]))
            )
    return SearchResult(query.image, tuple(asked), tuple(matches), scale, approximate=approximate)


def _box(box: Sequence[float]) -> Box:
    x1, y1, x2, y2 = box
    return (x1, y1, x2, y2)
