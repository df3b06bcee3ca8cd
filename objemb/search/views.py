"""Queries of several views of one object, and counter-examples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from objemb import registry
from objemb.config import parse_part
from objemb.index.collection import ImageCollection
from objemb.search.combiners.base import Combiner
from objemb.structures import Box, Described, Match, QueryView, RegionDescriptors, Regions, SearchResult, VisualWords
from objemb.types import Float32Array

#: Number of rows of the index, evenly spread, from which the ``classifier`` combiner separates a query.
SAMPLE = 2000
#: Least number of photos that are compared with counter-examples, and what it is multiplied by while they do not
#: suffice.
MIN_DEPTH, DEEPER = 64, 4
RUNNERS_UP = 3


@dataclass(frozen=True, eq=False)
class SeveralViews:
    """The described views of a query, as rows that are numbered through all of them.

    Attributes:
        views: The views, one or more, all of vectors or all of visual words.
        unlike: The counter-examples.
        combiner: How they become one query.
    """

    views: tuple[Described, ...]
    unlike: tuple[Described, ...]
    combiner: Combiner

    def __post_init__(self) -> None:
        if not any(isinstance(view, VisualWords) for view in self.views):
            return
        if not self.combiner.keeps_views:
            raise ValueError(
                f"combine: expected 'best', since visual words of several photos have no mean or direction, found "
                f"{self.combiner.registry_name!r}"
            )
        if self.unlike:
            raise ValueError(
                "unlike: expected a model of vectors, since scores of visual words depend on the number of words of a "
                "box, so that those of a view and of a counter-example cannot be compared; found visual words"
            )

    def query(self, sample: Callable[[], Float32Array]) -> Described:
        """The rows to search with. The box of row ``i`` is ``(i, 0, i + 1, 1)``, which names it in results.

        Args:
            sample: As for :meth:`Combiner.combine`.
        """
        words = [view for view in self.views if isinstance(view, VisualWords)]
        if words:
            return _joined(words)
        vectors = _vectors(self.views)
        rows = vectors
        if len(vectors):
            rows = self.combiner.combine(vectors, _vectors(self.unlike, vectors.shape[1]), sample)
        return RegionDescriptors("views", _numbered(len(rows)), rows)

    def result(self, found: SearchResult, index: ImageCollection) -> SearchResult:
        """The result of a search for :meth:`query`, with the view and the box of it that each hit matched.

        Where the rows of the query are not those of the views, it is the box of a view whose vector is closest to that
        of the matched box.
        """
        places = [(number, box) for number, view in enumerate(self.views) for box in _boxes(view)]
        closest = None if self.combiner.keeps_views else _Closest(index, _vectors(self.views))

        def placed(hit: Match) -> Match:
            row = int(hit.query_box[0]) if closest is None else closest.row(hit)
            view, box = places[row]
            return replace(hit, view=view, query_box=box, runners_up=tuple(placed(other) for other in hit.runners_up))

        first, *more = (QueryView(view.image, tuple(_boxes(view))) for view in self.views)
        return SearchResult(
            first.image,
            first.boxes,
            tuple(placed(hit) for hit in found),
            self.combiner.scale if self.combiner.scale and found.scale == index.schema.scale else found.scale,
            tuple(more),
            tuple(QueryView(view.image, tuple(_boxes(view))) for view in self.unlike),
            approximate=found.approximate,
        )

    def less_unlike(
        self, query: Described, search: Callable[[int], SearchResult], index: ImageCollection, k: int, where: str | None
    ) -> SearchResult:
        """The result of a search in which boxes that are close to a counter-example have a lower score.

        A box with the similarity ``s`` to the query and ``t`` to the closest counter-example scores
        ``s - max(0, t - s + margin)``. As no score grows, the photos found without counter-examples are compared in
        order until no further one can be among the best, so that the result is that of comparing all.

        Args:
            query: The rows of :meth:`query`.
            search: Searches for them without counter-examples, for a number of photos.
            index: The index.
            k: Number of photos.
            where: The filter of the search.
        """
        margin = self.combiner.margin
        if margin is None or not self.unlike or not isinstance(query, RegionDescriptors):
            return search(k)
        unlike = _vectors(self.unlike, query.dim)
        depth = max(DEEPER * k, MIN_DEPTH)
        compared: list[Match] = []
        while True:
            found = search(depth)
            compared += [_compared(index, hit, query, unlike, margin, where) for hit in found.hits[len(compared) :]]
            best = sorted(compared, key=lambda hit: -hit.score)[:k]
            if len(found) < depth or best[-1].score >= found.hits[-1].score:
                return replace(found, hits=tuple(best))
            depth *= DEEPER


def as_combiner(value: str | Combiner) -> Combiner:
    """A combiner from an object or a text such as ``best,margin=0.1``."""
    return registry.build(Combiner, parse_part("combine", value)) if isinstance(value, str) else value


class _Closest:
    """Which row of the views is closest to the matched box of a hit.

    Args:
        index: Where the boxes are stored.
        vectors: float32 ``(P, D)``, the rows of the views.
    """

    def __init__(self, index: ImageCollection, vectors: Float32Array) -> None:
        self._index = index
        self._vectors = vectors

    def row(self, hit: Match) -> int:
        """The number of the row; 0 for a box that is not stored."""
        stored = self._index.get(hit.image)
        if not isinstance(stored, RegionDescriptors):
            return 0
        boxes = _boxes(stored)
        return int((self._vectors @ stored.vectors[boxes.index(hit.box)]).argmax()) if hit.box in boxes else 0


def _compared(
    index: ImageCollection, hit: Match, query: RegionDescriptors, unlike: Float32Array, margin: float, where: str | None
) -> Match:
    """A hit with the score and the boxes that the counter-examples leave it."""
    stored = index.get(hit.image)
    if not isinstance(stored, RegionDescriptors):
        return hit
    kept = np.arange(len(stored)) if where is None else np.flatnonzero(index.fitting(hit.image, where))
    rows = stored.vectors[kept].astype(np.float64)
    similar = rows @ query.vectors.T.astype(np.float64)
    best = similar.max(axis=1)
    scores = best - np.maximum(0, (rows @ unlike.T.astype(np.float64)).max(axis=1) - best + margin)
    boxes, asked, labels = _boxes(stored), _boxes(query), stored.regions.label_names

    def match(row: int) -> Match:
        number, score = int(kept[row]), float(np.float32(scores[row]))
        query_box = asked[int(similar[row].argmax())]
        return replace(hit, score=score, box=boxes[number], query_box=query_box, label=labels[number], runners_up=())

    first, *others = (match(row) for row in np.argsort(-scores, kind="stable")[: 1 + RUNNERS_UP].tolist())
    return replace(first, runners_up=tuple(others))


def _joined(views: Sequence[VisualWords]) -> VisualWords:
    """Visual words of several photos as the rows of one query, without the places of local features."""
    first_rows = np.cumsum([0, *(len(view) for view in views)])
    return VisualWords(
        "views",
        _numbered(int(first_rows[-1])),
        views[0].dim,
        np.concatenate([view.rows + first for view, first in zip(views, first_rows[:-1].tolist(), strict=True)]),
        np.concatenate([view.words for view in views]),
        np.concatenate([view.residuals for view in views]),
        np.concatenate([view.weights for view in views]),
        np.concatenate([view.scales for view in views]),
    )


def _numbered(count: int) -> Regions:
    """Regions whose boxes are their numbers."""
    numbers = np.arange(count, dtype=np.float32)
    zeros = np.zeros_like(numbers)
    return Regions(np.stack([numbers, zeros, numbers + 1, zeros + 1], axis=1), (1, max(1, count)))


def _vectors(described: Sequence[Described], dim: int = 0) -> Float32Array:
    """All vectors ``(N, D)``; D is ``dim`` where there are none."""
    rows = [one.vectors for one in described if isinstance(one, RegionDescriptors)]
    return np.concatenate(rows) if rows else np.zeros((0, dim), np.float32)


def _boxes(described: Described) -> list[Box]:
    return [(x1, y1, x2, y2) for x1, y1, x2, y2 in described.regions.boxes.tolist()]
