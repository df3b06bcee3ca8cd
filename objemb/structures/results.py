"""The results of a search."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from objemb.structures.fields import (
    Box,
    Scalar,
    checked_box,
    checked_id,
    expect_keys,
    frozen_metadata,
    metadata_to_json,
)

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
    """

    image: str
    score: float
    box: Box
    query_box: Box
    label: str | None = None
    metadata: Mapping[str, Scalar] = field(default_factory=dict)
    runners_up: tuple[Match, ...] = ()

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
        if any(r.score > score for r in self.runners_up):
            raise ValueError(f"Match.runners_up: expected scores of at most {score}, found a larger one")

    def to_json(self) -> dict[str, object]:
        """``{"image", "score", "box", "query_box", "label", "metadata", "runners_up"}``."""
        return {
            "image": self.image,
            "score": self.score,
            "box": list(self.box),
            "query_box": list(self.query_box),
            "label": self.label,
            "metadata": metadata_to_json(self.metadata),
            "runners_up": [r.to_json() for r in self.runners_up],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Match:
        """A match from the output of :meth:`to_json`."""
        expect_keys("Match", data, ("image", "score", "box", "query_box", "label", "metadata", "runners_up"))
        return Match(
            image=data["image"],
            score=data["score"],
            box=tuple(data["box"]),
            query_box=tuple(data["query_box"]),
            label=data["label"],
            metadata=data["metadata"],
            runners_up=tuple(Match.from_json(r) for r in data["runners_up"]),
        )


@dataclass(frozen=True)
class SearchResult:
    """The ranked result of one query: a sequence of :class:`Match`, best first, each image at most once.

    Attributes:
        query_image: Id or path of the query image.
        query_boxes: The query's boxes that were searched for, ``(x1, y1, x2, y2)`` in original pixels of the query.
        hits: The matches.
        scale: Meaning of the scores, in words; re-rankers may replace cosine similarities by other scores.
    """

    query_image: str
    query_boxes: tuple[Box, ...]
    hits: tuple[Match, ...]
    scale: str = COSINE

    def __post_init__(self) -> None:
        checked_id("SearchResult.query_image", self.query_image)
        boxes = tuple(checked_box("SearchResult.query_boxes", box) for box in self.query_boxes)
        object.__setattr__(self, "query_boxes", boxes)
        object.__setattr__(self, "hits", tuple(self.hits))
        if not isinstance(self.scale, str) or not self.scale:
            raise TypeError(f"SearchResult.scale: expected a description of the scores, found {self.scale!r}")
        scores = [h.score for h in self.hits]
        if any(a < b for a, b in pairwise(scores)):
            raise ValueError(f"SearchResult.hits: expected scores in descending order, found {scores}")
        if len({h.image for h in self.hits}) != len(self.hits):
            raise ValueError("SearchResult.hits: expected each image at most once, found one twice")

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, index: int) -> Match:
        return self.hits[index]

    def __iter__(self) -> Iterator[Match]:
        return iter(self.hits)

    def to_json(self) -> dict[str, object]:
        """``{"query": {"image", "boxes"}, "scale", "hits": [...]}``: what ``objemb search --json`` prints."""
        return {
            "query": {"image": self.query_image, "boxes": [list(b) for b in self.query_boxes]},
            "scale": self.scale,
            "hits": [h.to_json() for h in self.hits],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> SearchResult:
        """A result from the output of :meth:`to_json`."""
        expect_keys("SearchResult", data, ("query", "scale", "hits"))
        expect_keys("SearchResult.query", data["query"], ("image", "boxes"))
        boxes = tuple(tuple(b) for b in data["query"]["boxes"])
        hits = tuple(Match.from_json(h) for h in data["hits"])
        return SearchResult(data["query"]["image"], boxes, hits, data["scale"])
