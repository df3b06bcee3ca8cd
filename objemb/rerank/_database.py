"""The database of a search, for re-rankers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from objemb import checks
from objemb.index.blocks import NO_HIT, GroupedHits, VectorBlock
from objemb.index.engines.exact import search_exact
from objemb.index.store import Index
from objemb.structures import Box, ImageRows, Match, Photo, RegionDescriptors, SearchResult

#: Number of results (queries times depth) that are searched for at a time.
PLACES_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Database(ImageRows):
    """The rows of images that are searched, in memory or in a mapped file; no two images have the same id.

    Vectors have a length of at most 1.

    Attributes:
        open_photo: Decodes the photo of an image by its id, for re-rankers that open photos; None without photos.
    """

    open_photo: Callable[[str], Photo] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.numbers) != len(self.images):
            raise ValueError("Database.images: expected each id once, found one twice")

    @staticmethod
    def of_rows(rows: ImageRows, open_photo: Callable[[str], Photo] | None = None) -> Database:
        """A database from rows whose images have different ids."""
        return Database(rows.images, rows.vectors, rows.items, rows.boxes, rows.sizes, open_photo)

    @staticmethod
    def of(
        described: Sequence[RegionDescriptors], dim: int, open_photo: Callable[[str], Photo] | None = None
    ) -> Database:
        """The rows of described images.

        Args:
            described: Images with their rows.
            dim: Dimension of the vectors, needed if there are no images.
            open_photo: See :attr:`open_photo`.
        """
        return Database.of_rows(ImageRows.from_descriptors(described, dim), open_photo)

    @staticmethod
    def of_index(index: Index, where: str | None = None, open_photo: Callable[[str], Photo] | None = None) -> Database:
        """The rows of an index, in memory unless it is a single segment of float32 (as after ``Index.compact``).

        Args:
            index: The index, in the state in which it was opened.
            where: Use only rows that match a filter, see :mod:`objemb.index.filters.parser`.
            open_photo: See :attr:`open_photo`.
        """
        return Database.of_rows(index.dense_rows(where), open_photo)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The index of each image by its id."""
        return {image: number for number, image in enumerate(self.images)}

    def rows(self, image: str) -> slice:
        """The rows of an image; may be empty. Raises ``KeyError`` for an image that is not in the database."""
        number = self.numbers[image]
        return slice(int(self.starts[number]), int(self.starts[number + 1]))

    def search(self, queries: Sequence[RegionDescriptors], depth: int) -> list[SearchResult]:
        """Exact search, in limited memory whatever the number of rows.

        The score of an image is the largest inner product of one of its rows and a row of the query; ties are ordered
        by row.

        Args:
            queries: Their ``image`` becomes that of the result; a query without rows has no hits.
            depth: Images per result; fewer if the database has fewer with rows.

        Returns:
            One result per query, whose matches have the pair of boxes that matched, but no labels and no metadata.
        """
        checks.whole("depth", depth)
        depth = max(1, min(depth, len(self.images)))
        step = max(1, PLACES_AT_ONCE // depth)
        return [
            result
            for first in range(0, len(queries), step)
            for result in self._search_some(queries[first : first + step], depth)
        ]

    def _search_some(self, queries: Sequence[RegionDescriptors], depth: int) -> Iterator[SearchResult]:
        lengths = [len(q) for q in queries]
        rows = np.concatenate([np.zeros((0, self.dim), np.float32), *(q.vectors for q in queries if len(q))])
        groups = np.repeat(np.arange(len(queries), dtype=np.int64), lengths)
        hits = search_exact([VectorBlock(self.vectors, self.items)], rows, groups, depth, count=len(queries))
        first_rows = np.cumsum([0, *lengths])
        for number, query in enumerate(queries):
            yield self._result(query, hits, number, int(first_rows[number]))

    def _result(self, query: RegionDescriptors, hits: GroupedHits, number: int, first_row: int) -> SearchResult:
        boxes = as_boxes(query.regions.boxes.tolist())
        present = hits.images[number] != NO_HIT
        columns = (
            hits.images[number][present].tolist(),
            hits.scores[number][present].tolist(),
            as_boxes(self.boxes[hits.rows[number][present]].tolist()),
            (hits.query_rows[number][present] - first_row).tolist(),
        )
        matches = tuple(Match(self.images[i], s, box, boxes[q]) for i, s, box, q in zip(*columns, strict=True))
        return SearchResult(query.image, boxes, matches)


def as_boxes(rows: Sequence[Sequence[float]]) -> tuple[Box, ...]:
    """Rows of four numbers as boxes of matches."""
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in rows)
