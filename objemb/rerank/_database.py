"""What was searched, as re-rankers see it: an index, or rows in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from objemb import checks
from objemb.index.collection import ImageCollection
from objemb.index.engines.exact import search_exact
from objemb.index.storage.blocks import VectorBlock
from objemb.ops.scored_pairs import NO_HIT, GroupedHits
from objemb.structures import Box, ImageRows, Match, Photo, RegionDescriptors, SearchResult

#: Number of results (queries times depth) that are searched for at a time.
PLACES_AT_ONCE = 1 << 20


class Database(ABC):
    """Images with their rows, which can be searched again.

    Most re-rankers need further searches and the rows of the hits, which take no longer in a large database; those that
    work on all rows ask for :meth:`dense`.

    Attributes:
        open_photo: Decodes the photo of an image by its id, for re-rankers that open photos; None without photos.
    """

    open_photo: Callable[[str], Photo] | None

    @property
    @abstractmethod
    def dim(self) -> int:
        """Length D of the vectors."""

    @property
    @abstractmethod
    def image_count(self) -> int:
        """Number of images, at least of those that a search may return."""

    @abstractmethod
    def search(self, queries: Sequence[RegionDescriptors], depth: int) -> list[SearchResult]:
        """The images whose best row is most similar to a row of a query.

        Args:
            queries: Their ``image`` becomes that of the result; a query without rows finds nothing.
            depth: Images per result; fewer where the database has fewer with rows.

        Returns:
            One result per query, whose matches have the pair of boxes that matched, but no labels and no metadata.
        """

    @abstractmethod
    def rows_of_images(self, images: Sequence[str]) -> ImageRows:
        """The rows of some images, one image after the other; an image may have none.

        Raises:
            KeyError: An image is not in the database.
        """

    @abstractmethod
    def dense(self) -> DenseDatabase:
        """All rows; the same object every time, so that re-rankers may keep what they make of it."""


@dataclass(frozen=True, eq=False)
class DenseDatabase(ImageRows, Database):
    """All rows in memory or in a mapped file, searched exactly; no two images have the same id.

    Vectors have a length of at most 1.
    """

    open_photo: Callable[[str], Photo] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.numbers) != len(self.images):
            raise ValueError("DenseDatabase.images: expected each id once, found one twice")

    @staticmethod
    def of_rows(rows: ImageRows, open_photo: Callable[[str], Photo] | None = None) -> DenseDatabase:
        """A database from rows whose images have different ids."""
        return DenseDatabase(rows.images, rows.vectors, rows.items, rows.boxes, rows.sizes, open_photo)

    @staticmethod
    def of(
        described: Sequence[RegionDescriptors], dim: int, open_photo: Callable[[str], Photo] | None = None
    ) -> DenseDatabase:
        """The rows of described images.

        Args:
            described: Images with their rows.
            dim: Dimension of the vectors, needed if there are no images.
            open_photo: See :attr:`open_photo`.
        """
        return DenseDatabase.of_rows(ImageRows.from_descriptors(described, dim), open_photo)

    @property
    def image_count(self) -> int:
        """As :attr:`Database.image_count`."""
        return len(self.images)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The index of each image by its id."""
        return {image: number for number, image in enumerate(self.images)}

    def rows_of_images(self, images: Sequence[str]) -> ImageRows:
        """As :meth:`Database.rows_of_images`."""
        numbers = np.array([self.numbers[image] for image in images], dtype=np.int64)
        rows = self.rows_of(numbers)
        items = np.repeat(np.arange(len(images)), self.starts[numbers + 1] - self.starts[numbers])
        sizes = None if self.sizes is None else self.sizes[rows]
        return ImageRows(tuple(images), self.vectors[rows], items, self.boxes[rows], sizes)

    def dense(self) -> DenseDatabase:
        """This database."""
        return self

    def search(self, queries: Sequence[RegionDescriptors], depth: int) -> list[SearchResult]:
        """As :meth:`Database.search`, exactly, in limited memory whatever the number of rows.

        The score of an image is the largest inner product of one of its rows and a row of the query; ties are ordered
        by row.
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


class IndexDatabase(Database):
    """An index in the state that it was opened with, searched as :meth:`Index.search` does: by its structure for
    approximate search where that is used, and without reading the rows of other images than the hits.

    Args:
        index: The index.
        where: Only the rows that match a filter, see :mod:`objemb.index.filters.parser`.
        exclude: Ids of images that are left out.
        exact: As for :meth:`Index.search`; :meth:`dense` is searched exactly whatever is said here.
        open_photo: See :attr:`Database.open_photo`.
    """

    def __init__(
        self,
        index: ImageCollection,
        where: str | None = None,
        *,
        exclude: Collection[str] = (),
        exact: bool | None = None,
        open_photo: Callable[[str], Photo] | None = None,
    ) -> None:
        self.open_photo = open_photo
        self._index = index
        self._where = where
        self._exclude = frozenset(exclude)
        self._exact = exact

    @property
    def dim(self) -> int:
        """As :attr:`Database.dim`."""
        return self._index.dim

    @property
    def image_count(self) -> int:
        """As :attr:`Database.image_count`."""
        return len(self._index)

    def search(self, queries: Sequence[RegionDescriptors], depth: int) -> list[SearchResult]:
        """As :meth:`Database.search`."""
        checks.whole("depth", depth)
        left_out = [self._exclude] * len(queries)
        return self._index.search_many(
            queries, depth, where=self._where, exclude=left_out, runners_up=0, exact=self._exact, named=False
        )

    def rows_of_images(self, images: Sequence[str]) -> ImageRows:
        """As :meth:`Database.rows_of_images`."""
        return self._index.rows_of_images(images, self._where)

    def dense(self) -> DenseDatabase:
        """A copy of all rows in memory, unless the index is a single segment of float32 (as after
        :meth:`Index.compact`)."""
        return self._dense

    @cached_property
    def _dense(self) -> DenseDatabase:
        return DenseDatabase.of_rows(self._index.dense_rows(without(self._exclude, self._where)), self.open_photo)


def without(images: Collection[str], where: str | None) -> str | None:
    """Extend a filter so that it also leaves out some images."""
    if not images:
        return where
    names = ", ".join("'" + image.replace("'", "''") + "'" for image in sorted(images))
    return f"image not in ({names})" + ("" if where is None else f" and ({where})")


def as_boxes(rows: Sequence[Sequence[float]]) -> tuple[Box, ...]:
    """Rows of four numbers as boxes of matches."""
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in rows)
