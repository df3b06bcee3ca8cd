"""The rows that were searched, as re-rankers see them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from objemb import checks
from objemb.index.blocks import NO_HIT, Block, GroupedHits
from objemb.index.engines.exact import search_exact
from objemb.index.store import Index
from objemb.structures import Box, Match, Photo, RegionDescriptors, SearchResult

#: Places of results that are searched for at once.
PLACES_AT_ONCE = 1 << 20


@dataclass(frozen=True, eq=False)
class Database:
    """Images with any number of rows each, in memory or in a mapped file.

    An image is whatever is to be found: a photo, or one boxed object of a photo where objects are searched.

    Attributes:
        images: Their ids, each once.
        vectors: float32 ``(R, D)``, at most of unit length; may be a memory map.
        items: int64 ``(R,)``, rising: the number of the image that each row belongs to. An image may have no rows.
        boxes: float32 ``(R, 4)``, xyxy in original pixels: where each row looks.
        open_photo: Decodes the photo of an image by its id, for re-rankers that look again; None without photos.
    """

    images: tuple[str, ...]
    vectors: NDArray[np.float32]
    items: NDArray[np.int64]
    boxes: NDArray[np.float32]
    open_photo: Callable[[str], Photo] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "images", tuple(self.images))
        count = len(self.vectors)
        if self.vectors.ndim != 2 or self.vectors.dtype != np.float32:
            found = f"{self.vectors.dtype} {self.vectors.shape}"
            raise ValueError(f"Database.vectors: expected float32 (R, D), found {found}")
        if self.boxes.shape != (count, 4):
            raise ValueError(f"Database.boxes: expected shape ({count}, 4), found {self.boxes.shape}")
        if self.items.shape != (count,) or self.items.dtype != np.int64:
            raise ValueError(f"Database.items: expected int64 ({count},), found {self.items.dtype} {self.items.shape}")
        if count and (np.any(np.diff(self.items) < 0) or self.items[0] < 0 or self.items[-1] >= len(self.images)):
            raise ValueError(f"Database.items: expected rising numbers below {len(self.images)}, found others")
        if len(set(self.images)) != len(self.images):
            raise ValueError("Database.images: expected each id once, found one twice")

    @staticmethod
    def of(
        described: Sequence[RegionDescriptors], dim: int, open_photo: Callable[[str], Photo] | None = None
    ) -> Database:
        """The rows of described images.

        Args:
            described: Images with their rows.
            dim: Length of the vectors, which zero images do not tell.
            open_photo: As the attribute.
        """
        vectors = [np.zeros((0, dim), np.float32), *(d.vectors for d in described)]
        boxes = [np.zeros((0, 4), np.float32), *(d.regions.boxes for d in described)]
        items = np.repeat(np.arange(len(described), dtype=np.int64), [len(d) for d in described])
        names = tuple(d.image for d in described)
        return Database(names, np.concatenate(vectors), items, np.concatenate(boxes), open_photo)

    @staticmethod
    def of_index(index: Index, where: str | None = None, open_photo: Callable[[str], Photo] | None = None) -> Database:
        """The rows of an index, in memory unless it is a single segment of float32 (as after ``Index.compact``).

        Args:
            index: It shows the state that it was opened with.
            where: Only the rows that fit a filter, see :mod:`objemb.index.filters.parser`.
            open_photo: As the attribute.
        """
        rows = index.dense_rows(where)
        return Database(rows.images, rows.vectors, rows.items, rows.boxes, open_photo)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.images)

    @property
    def dim(self) -> int:
        """Length D of the vectors."""
        return int(self.vectors.shape[1])

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """First row of each image, and the number of rows at the end: int64 ``(images + 1,)``."""
        return np.searchsorted(self.items, np.arange(len(self) + 1)).astype(np.int64)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """The number of each image by its id."""
        return {image: number for number, image in enumerate(self.images)}

    def rows(self, image: str) -> slice:
        """The rows of an image, perhaps none. Raises ``KeyError`` for an image that is not there."""
        number = self.numbers[image]
        return slice(int(self.starts[number]), int(self.starts[number + 1]))

    def search(self, queries: Sequence[RegionDescriptors], depth: int) -> list[SearchResult]:
        """Exact search, in bounded memory whatever the number of rows.

        The score of an image is the largest inner product of a row of it and a row of the query; of equal scores the
        lower row comes first.

        Args:
            queries: Their ``image`` becomes that of the result; a query without rows finds nothing.
            depth: Images per result; fewer where the database has fewer with rows.

        Returns:
            One result per query, whose matches carry the pair of boxes that matched, but neither labels nor metadata.
        """
        checks.whole("depth", depth)
        depth = max(1, min(depth, len(self)))
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
        hits = search_exact([Block(self.vectors, self.items)], rows, groups, depth, count=len(queries))
        first_rows = np.cumsum([0, *lengths])
        for number, query in enumerate(queries):
            yield self._result(query, hits, number, int(first_rows[number]))

    def _result(self, query: RegionDescriptors, hits: GroupedHits, number: int, first_row: int) -> SearchResult:
        boxes = as_boxes(query.regions.boxes.tolist())
        found = hits.images[number] != NO_HIT
        columns = (
            hits.images[number][found].tolist(),
            hits.scores[number][found].tolist(),
            as_boxes(self.boxes[hits.rows[number][found]].tolist()),
            (hits.query_rows[number][found] - first_row).tolist(),
        )
        matches = tuple(Match(self.images[i], s, box, boxes[q]) for i, s, box, q in zip(*columns, strict=True))
        return SearchResult(query.image, boxes, matches)


def as_boxes(rows: Sequence[Sequence[float]]) -> tuple[Box, ...]:
    """Rows of four numbers as the boxes of matches."""
    return tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in rows)
