"""The results of a search."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, overload

from objemb import checks
from objemb.structures.fields import (
    Box,
    ReadOnlyDict,
    Scalar,
    checked_box,
    checked_id,
    expect_keys,
    frozen_metadata,
    metadata_to_json,
)

if TYPE_CHECKING:
    import pyarrow as pa

    from objemb.structures.result_table import DataFrame

#: The metadata of an image that has none.
NO_METADATA: Mapping[str, Scalar] = ReadOnlyDict()
#: Default meaning of scores.
COSINE = "cosine similarity, at most 1"


@dataclass(frozen=True)
class Match:
    """One image of a search result, with the pair of boxes that matched.

    Attributes:
        image: Id of the image.
        score: Similarity of the best pair of boxes, larger is more similar; see :attr:`SearchResult.scale`.
        box: The matched box of the image, ``(x1, y1, x2, y2)`` in its original pixels.
        query_box: The box of the query that it matched, ``(x1, y1, x2, y2)`` in original pixels of the query.
        label: Name of the matched region's class, or None.
        metadata: Metadata stored with the image, by column.
        runners_up: The next best pairs of boxes in the same image, best first, without ``runners_up`` of their own.
        p_false: How many photos that do not show the object are expected to score at least ``score``, from the
            calibration of the index; None if that is not known.
        view: The view of the query that matched, a number in :attr:`SearchResult.views`.
    """

    image: str
    score: float
    box: Box
    query_box: Box
    label: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    runners_up: tuple[Match, ...] = ()
    view: int = 0
    p_false: float | None = None

    def __post_init__(self) -> None:
        checked_id("Match.image", self.image)
        if not (self.label is None or isinstance(self.label, str)):
            raise TypeError(f"Match.label: expected a string or None, found {self.label!r}")
        score = float(self.score)
        if not math.isfinite(score):
            raise ValueError(f"Match.score: expected a finite number, found {score}")
        object.__setattr__(self, "score", score)
        object.__setattr__(self, "box", checked_box("Match.box", self.box))
        object.__setattr__(self, "query_box", checked_box("Match.query_box", self.query_box))
        object.__setattr__(self, "metadata", frozen_metadata("Match.metadata", self.metadata))
        object.__setattr__(self, "runners_up", tuple(self.runners_up))
        checks.whole("Match.view", self.view, 0)
        if self.p_false is not None:
            checks.between("Match.p_false", self.p_false, 0, math.inf)
        if any(r.score > score for r in self.runners_up):
            raise ValueError(f"Match.runners_up: expected scores of at most {score}, found a larger one")

    @staticmethod
    def of_pairs(
        image: str, pairs: Sequence[tuple[float, Box, Box]], metadata: Mapping[str, Scalar] = NO_METADATA
    ) -> Match:
        """A match without a label, of values that have been checked: a fifth of the time that checking them takes.

        Args:
            image: Id of the image.
            pairs: Score, box and query box of each pair, best first; the others are the runners-up of the first.
            metadata: Metadata of the image, read-only.
        """
        matches = []
        for score, box, query_box in pairs:
            match = object.__new__(Match)
            values = match.__dict__
            values["image"], values["score"], values["box"], values["query_box"] = image, score, box, query_box
            values["label"], values["metadata"], values["runners_up"] = None, metadata, ()
            values["view"], values["p_false"] = 0, None
            matches.append(match)
        matches[0].__dict__["runners_up"] = tuple(matches[1:])
        return matches[0]

    def named(self, label: str | None, metadata: Mapping[str, Scalar]) -> Match:
        """The same match with another label and metadata; what has been checked is not checked again."""
        match = object.__new__(type(self))
        match.__dict__.update(self.__dict__, label=label, metadata=frozen_metadata("Match.metadata", metadata))
        return match

    def to_json(self) -> dict[str, object]:
        """``{"image", "score", "p_false", "box", "view", "query_box", "label", "metadata", "runners_up"}``."""
        return {
            "image": self.image,
            "score": self.score,
            "p_false": self.p_false,
            "box": list(self.box),
            "view": self.view,
            "query_box": list(self.query_box),
            "label": self.label,
            "metadata": metadata_to_json(self.metadata),
            "runners_up": [r.to_json() for r in self.runners_up],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Match:
        """A match from the output of :meth:`to_json`."""
        expect_keys(
            "Match", data, ("image", "score", "p_false", "box", "view", "query_box", "label", "metadata", "runners_up")
        )
        return Match(
            image=data["image"],
            score=data["score"],
            box=tuple(data["box"]),
            query_box=tuple(data["query_box"]),
            label=data["label"],
            metadata=data["metadata"],
            runners_up=tuple(Match.from_json(r) for r in data["runners_up"]),
            view=data["view"],
            p_false=data["p_false"],
        )


class Picked(Sequence[str]):
    """Some of several ids, in another order, each of which is looked up when it is asked for.

    Args:
        ids: All of them.
        positions: Which ones.
    """

    def __init__(self, ids: Sequence[str], positions: Sequence[int]) -> None:
        self._ids = ids
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Picked: ...
    def __getitem__(self, index: int | slice) -> str | Picked:
        if isinstance(index, slice):
            return Picked(self._ids, self._positions[index])
        return self._ids[self._positions[index]]


class LazyHits(Sequence[Match]):
    """Hits that are made when they are asked for: a re-ranker needs most of those that it is given by their id alone.

    Who makes it answers for what :class:`SearchResult` checks of other hits: ids differ, scores fall, and there is a
    single view. It equals any sequence of equal hits, and is pickled as a tuple.

    Args:
        images: The id of each hit, best first.
        make: Makes a hit from its position; the same one every time.
    """

    def __init__(self, images: Sequence[str], make: Callable[[int], Match]) -> None:
        self.images = images
        self._make = make
        self._made: dict[int, Match] = {}

    def __len__(self) -> int:
        return len(self.images)

    @overload
    def __getitem__(self, index: int) -> Match: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Match]: ...
    def __getitem__(self, index: int | slice) -> Match | Sequence[Match]:
        positions = range(len(self))[index]
        return self.hit(positions) if isinstance(positions, int) else self.picked(positions)

    def __iter__(self) -> Iterator[Match]:
        return map(self.hit, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (LazyHits, tuple)) and tuple(self) == tuple(other)

    def __hash__(self) -> int:
        return hash(tuple(self))

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __reduce__(self) -> tuple[type, tuple[list[Match]]]:
        return tuple, (list(self),)

    def hit(self, position: int) -> Match:
        """The hit at a position from 0 on."""
        made = self._made.get(position)
        if made is None:
            made = self._made[position] = self._make(position)
        return made

    def picked(self, positions: Sequence[int]) -> LazyHits:
        """The hits at ascending positions."""
        return LazyHits(Picked(self.images, positions), lambda n: self.hit(positions[n]))


@dataclass(frozen=True)
class QueryView:
    """A photo of a query.

    Attributes:
        image: Id or path of the photo.
        boxes: Its boxes that were searched for, ``(x1, y1, x2, y2)`` in its original pixels.
    """

    image: str
    boxes: tuple[Box, ...]

    def __post_init__(self) -> None:
        checked_id("QueryView.image", self.image)
        object.__setattr__(self, "boxes", tuple(checked_box("QueryView.boxes", box) for box in self.boxes))

    def to_json(self) -> dict[str, object]:
        """``{"image", "boxes"}``."""
        return {"image": self.image, "boxes": [list(b) for b in self.boxes]}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> QueryView:
        """A view from the output of :meth:`to_json`."""
        expect_keys("QueryView", data, ("image", "boxes"))
        return QueryView(data["image"], tuple(tuple(b) for b in data["boxes"]))


@dataclass(frozen=True)
class SearchResult:
    """The ranked result of one query: a sequence of :class:`Match`, best first, each image at most once.

    Attributes:
        query_image: Id or path of the query image.
        query_boxes: The query's boxes that were searched for, ``(x1, y1, x2, y2)`` in original pixels of the query.
        hits: The matches: a tuple, or hits that are made when they are asked for.
        scale: Meaning of the scores, in words; re-rankers may replace cosine similarities by other scores.
        more_views: Further photos of the query, if it has several.
        unlike: Counter-examples: photos with boxes that were not to be found.
        skipped: Why the query was not searched for, such as a photo that cannot be read; such a result has no hits.
            None for a query that was searched for.
        approximate: Whether photos may be missing because the search was approximate; the scores are exact.
        html: Shows the result as HTML, set by a search that knows the photos. Results are compared without it, and it
            is not pickled.
    """

    query_image: str
    query_boxes: tuple[Box, ...]
    hits: Sequence[Match]
    scale: str = COSINE
    more_views: tuple[QueryView, ...] = ()
    unlike: tuple[QueryView, ...] = ()
    skipped: str | None = None
    html: Callable[[SearchResult], str] | None = field(default=None, compare=False, repr=False)
    approximate: bool = False

    def __post_init__(self) -> None:
        checked_id("SearchResult.query_image", self.query_image)
        boxes = tuple(checked_box("SearchResult.query_boxes", box) for box in self.query_boxes)
        object.__setattr__(self, "query_boxes", boxes)
        object.__setattr__(self, "more_views", tuple(self.more_views))
        object.__setattr__(self, "unlike", tuple(self.unlike))
        if not isinstance(self.scale, str) or not self.scale:
            raise TypeError(f"SearchResult.scale: expected a description of the scores, found {self.scale!r}")
        if not isinstance(self.hits, LazyHits):
            self._check_hits()

    def _check_hits(self) -> None:
        object.__setattr__(self, "hits", tuple(self.hits))
        scores = [h.score for h in self.hits]
        if any(a < b for a, b in pairwise(scores)):
            raise ValueError(f"SearchResult.hits: expected scores in descending order, found {scores}")
        if len({h.image for h in self.hits}) != len(self.hits):
            raise ValueError("SearchResult.hits: expected each image at most once, found one twice")
        if self.skipped is not None and self.hits:
            raise ValueError(f"SearchResult.hits: expected none of a skipped query, found {len(self.hits)}")
        if any(h.view > len(self.more_views) for h in self.hits):
            raise ValueError(f"SearchResult.hits: expected views below {len(self.views)}, found a hit of another")

    @property
    def views(self) -> tuple[QueryView, ...]:
        """All photos of the query: first ``query_image`` with ``query_boxes``, then :attr:`more_views`."""
        return (QueryView(self.query_image, self.query_boxes), *self.more_views)

    def without(self, images: Collection[str]) -> SearchResult:
        """The result without the hits of some images."""
        kept = [n for n, image in enumerate(self.images) if image not in images]
        if len(kept) == len(self):
            return self
        hits = self.hits.picked(kept) if isinstance(self.hits, LazyHits) else [self.hits[n] for n in kept]
        return replace(self, hits=hits)

    @property
    def images(self) -> Sequence[str]:
        """The ids of the hits, best first."""
        return self.hits.images if isinstance(self.hits, LazyHits) else [hit.image for hit in self.hits]

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: int) -> Match:
        return self.hits[index]

    def __iter__(self) -> Iterator[Match]:
        return iter(self.hits)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "html": None}

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the photos with their boxes; None, for the text, where there are no photos to show."""
        return None if self.html is None else self.html(self)

    def to_arrow(self) -> pa.Table:
        """The hits as a ``pyarrow.Table``, one row per hit; see :mod:`objemb.structures.result_table`."""
        from objemb.structures.result_table import as_table

        return as_table(self)

    def to_pandas(self) -> DataFrame:
        """The hits as a data frame with the columns of :meth:`to_arrow`.

        Raises:
            ImportError: pandas is not installed.
        """
        from objemb.structures.result_table import as_data_frame

        return as_data_frame(self)

    def to_json(self) -> dict[str, object]:
        """What ``objemb search --json`` prints: ``{"query", "scale", "approximate", "hits": [...]}``.

        ``query`` is ``{"image", "boxes", "more_views", "unlike"}``, the latter two lists of ``{"image", "boxes"}``.
        A query that was not searched for has a further entry ``skipped``, the reason.
        """
        query = {
            **QueryView(self.query_image, self.query_boxes).to_json(),
            "more_views": [view.to_json() for view in self.more_views],
            "unlike": [view.to_json() for view in self.unlike],
        }
        skipped = {} if self.skipped is None else {"skipped": self.skipped}
        hits = [h.to_json() for h in self.hits]
        return {"query": query, "scale": self.scale, "approximate": self.approximate, "hits": hits, **skipped}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SearchResult:
        """A result from the output of :meth:`to_json`."""
        expect_keys("SearchResult", data, ("query", "scale", "hits"))
        query = data["query"]
        expect_keys("SearchResult.query", query, ("image", "boxes", "more_views", "unlike"))
        first = QueryView.from_json(query)
        more, unlike = (tuple(map(QueryView.from_json, query[name])) for name in ("more_views", "unlike"))
        hits = tuple(Match.from_json(h) for h in data["hits"])
        approximate = bool(data.get("approximate", False))
        return SearchResult(
            first.image,
            first.boxes,
            hits,
            data["scale"],
            more,
            unlike,
            data.get("skipped"),
            approximate=approximate,
        )
