"""The contract of re-rankers, and a search followed by re-rankers."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from objemb.checks import ObjembError
from objemb.index.nearby import searching_nearby
from objemb.registry import Plugin
from objemb.rerank._database import Database
from objemb.structures import Box, LazyHits, Match, Photo, RegionDescriptors, SearchResult, VisualWords
from objemb.structures.results import COSINE, Picked
from objemb.types import Float32Array

if TYPE_CHECKING:  # these need PyTorch, and re-rankers that use vectors and boxes alone run without it
    from objemb.describers.base import Describer
    from objemb.describers.capabilities import FeatureDescriber

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Search:
    """Queries, database and results of a search: everything that a re-ranker may use.

    Attributes:
        queries: The rows of the queries.
        results: The result of each query.
        database: The rows of the database.
        describer: The describer of both, for re-rankers that open photos.
        open_query: Decodes the photo of a query by its index. If a query is a part of a photo, its boxes say which.
        found: The result that the database gave for each query; empty if that is not known.
    """

    queries: tuple[RegionDescriptors, ...]
    results: tuple[SearchResult, ...]
    database: Database
    describer: Describer | FeatureDescriber | None = None
    open_query: Callable[[int], Photo] | None = None
    found: tuple[SearchResult, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "queries", tuple(self.queries))
        object.__setattr__(self, "results", tuple(self.results))
        if len(self.queries) != len(self.results):
            raise ValueError(f"Search.results: expected one per query ({len(self.queries)}), found {len(self.results)}")

    @property
    def depth(self) -> int:
        """Largest number of hits of a result, at least 1: the depth of a new search."""
        return max(1, *(len(r) for r in self.results), 1)

    def again(self, queries: Iterable[RegionDescriptors], database: Database) -> Search:
        """A search with other queries or in another database, of the same depth."""
        asked = tuple(queries)
        found = tuple(database.search(asked, self.depth))
        return replace(self, queries=asked, results=found, database=database, found=found)

    def is_as_found(self, number: int) -> bool:
        """Whether a result has the hits, scores and boxes that the database gave for its query."""
        return len(self.found) > number and self.results[number].hits is self.found[number].hits

    def found_photo(self, image: str) -> Photo | None:
        """The photo of a hit; None, with a warning, if it is missing or can no longer be read.

        Raises:
            ValueError: No photo can be opened.
        """
        if self.database.open_photo is None:
            raise ValueError("re-ranking: expected a database whose photos can be opened, found one without photos")
        try:
            return self.database.open_photo(image)
        except (ObjembError, OSError) as error:  # a single photo must not make the search fail
            log.warning("not re-ranked, and placed after those that were: %s", error)
            return None

    def query_photo(self, number: int) -> Photo:
        """The photo of a query by its index. Raises ``ValueError`` if photos cannot be opened."""
        if self.open_query is None:
            raise ValueError("re-ranking: expected queries whose photos can be opened, found vectors alone")
        return self.open_query(number)

    def needed_describer(self) -> Describer:
        """The describer of vectors. Raises ``ValueError`` if there is none, as for an exported model."""
        if self.describer is None:
            raise ValueError(
                "re-ranking: expected the describer of a PyTorch model, with which parts of photos are described, "
                "found none; an exported model does not have one"
            )

        from objemb.describers.base import Describer

        if not isinstance(self.describer, Describer):
            raise ValueError(
                "re-ranking: expected the describer of vectors that described the photos, found "
                f"{self.describer.registry_name!r}"
            )
        return self.describer


@dataclass(frozen=True, eq=False)
class WordSearch:
    """Queries and results of a search for visual words.

    Attributes:
        queries: The rows of the queries.
        results: The result of each query.
        stored: Gives the stored words of a hit.
    """

    queries: tuple[VisualWords, ...]
    results: tuple[SearchResult, ...]
    stored: Callable[[str], VisualWords]

    def __post_init__(self) -> None:
        object.__setattr__(self, "queries", tuple(self.queries))
        object.__setattr__(self, "results", tuple(self.results))
        if len(self.queries) != len(self.results):
            raise ValueError(
                f"WordSearch.results: expected one per query ({len(self.queries)}), found {len(self.results)}"
            )


class Reranker(Plugin, ABC):
    """Improves the order of results.

    A re-ranker has no weights; if it needs a network, it uses the describer of the search. Vectors do not depend on it,
    so it is not part of a model's fingerprint.

    Attributes:
        depth: Number of hits that it needs in each result; None for all images. It also works with fewer.
        scale: Description of its scores; None if it does not change them.
    """

    kind = "rerank"
    depth: int | None
    scale: str | None = COSINE

    @abstractmethod
    def rerank(self, search: Search) -> Search:
        """The same queries in the same order, with better results.

        Results do not lose hits, and each match has the pair of boxes that matched. A re-ranker that changes query
        vectors returns them in ``queries``, and one that changes the rows of the database in ``database``, for use by
        the next one. The given search is not modified. Queries without rows, results without hits and an empty database
        are allowed.
        """

    def rerank_words(self, search: WordSearch) -> WordSearch:
        """The same for a search for visual words.

        Raises:
            ValueError: It only re-ranks searches of vectors.
        """
        del search
        raise ValueError(
            f"rerank: expected a re-ranker of visual words such as 'spatial_verification', found "
            f"{self.registry_name!r}, which takes vectors"
        )


def scored(match: Match, score: float) -> Match:
    """A match with another score; scores of its runners-up are limited to it."""
    runners_up = tuple(replace(r, score=min(r.score, score)) for r in match.runners_up)
    return replace(match, score=score, runners_up=runners_up)


def put_first(result: SearchResult, hits: Iterable[Match]) -> SearchResult:
    """A result that starts with newly scored hits by descending score, followed by the others in their old order.

    The scores of the others are limited to the last new score, so that scores descend along the result and hits that
    were not re-ranked do not come before those that were. Ties are in the order of ``hits``.
    """
    first = sorted(hits, key=lambda hit: -hit.score)
    new = {hit.image for hit in first}
    lowest = first[-1].score if first else float("inf")
    rest = (scored(hit, min(hit.score, lowest)) for hit in result if hit.image not in new)
    return replace(result, hits=(*first, *rest))


def ranked_first(
    result: SearchResult,
    positions: Sequence[int],
    scores: Float32Array,
    make: Callable[[int], Match],
    query_boxes: Sequence[Box],
    scale: str,
) -> SearchResult:
    """As :func:`put_first`, for new scores of hits of the result, which are made when they are asked for.

    Args:
        result: The result.
        positions: The positions of the newly scored hits in it.
        scores: float32 ``(n,)``, their new scores.
        make: Makes a newly scored hit from its position in ``positions``, with the score that ``scores`` has for it.
        query_boxes: The boxes of the query that these hits name.
        scale: The scale of the scores.
    """
    order = np.argsort(-scores, kind="stable").tolist()
    others = [] if len(order) == len(result) else sorted(set(range(len(result))).difference(positions))
    lowest = float(scores[order[-1]]) if order else math.inf
    before = result.hits

    def hit(n: int) -> Match:
        if n < len(order):
            return make(order[n])
        other = before[others[n - len(order)]]
        return scored(other, min(other.score, lowest))

    images = result.images
    ranked = [positions[n] for n in order] + others
    return replace(result, hits=LazyHits(Picked(images, ranked), hit), query_boxes=tuple(query_boxes), scale=scale)


def search_and_rerank(
    queries: Sequence[RegionDescriptors],
    database: Database,
    rerankers: Sequence[Reranker],
    depth: int,
    describer: Describer | FeatureDescriber | None = None,
    open_query: Callable[[int], Photo] | None = None,
) -> Search:
    """A search, followed by re-rankers, each applied to the output of the one before.

    The results have the scale of the last re-ranker that changed scores.

    Args:
        queries: The rows of the queries.
        database: The rows of the database.
        rerankers: The re-rankers, in order; may be empty.
        depth: Minimum number of hits per result (if there are so many images). A re-ranker that needs more makes the
            results longer, and they are not truncated afterwards.
        describer: The describer of both, for re-rankers that open photos.
        open_query: Decodes the photo of a query by its index, for re-rankers that open photos.
    """
    wanted = (database.image_count if r.depth is None else r.depth for r in rerankers)
    with searching_nearby():
        first = tuple(database.search(queries, max(depth, *wanted, 1)))
        search = Search(tuple(queries), first, database, describer, open_query, first)
        for reranker in rerankers:
            before = search.results
            search = reranker.rerank(search)
            search = replace(search, results=_on_scale(reranker, before, search.results))
    return search


def rerank_words(search: WordSearch, rerankers: Sequence[Reranker]) -> WordSearch:
    """Apply re-rankers, in order, to a search for visual words.

    Raises:
        ValueError: One of them only re-ranks searches of vectors.
    """
    for reranker in rerankers:
        before = search.results
        search = reranker.rerank_words(search)
        search = replace(search, results=_on_scale(reranker, before, search.results))
    return search


def _on_scale(
    reranker: Reranker, before: Sequence[SearchResult], after: Sequence[SearchResult]
) -> tuple[SearchResult, ...]:
    """Results with the scale of the re-ranker, if it changed scores."""
    scales = [reranker.scale or old.scale for old in before]
    pairs = zip(after, scales, strict=True)
    return tuple(new if new.scale == scale else replace(new, scale=scale) for new, scale in pairs)
