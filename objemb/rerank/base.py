"""The contract of a re-ranker, and a search with re-rankers in a row."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from objemb.checks import ObjembError
from objemb.registry import Plugin
from objemb.rerank._database import Database
from objemb.structures import Match, Photo, RegionDescriptors, SearchResult, VisualWords
from objemb.structures.results import COSINE

if TYPE_CHECKING:  # these need PyTorch, and re-rankers that use vectors and boxes alone run without it
    from objemb.describers.base import Describer
    from objemb.describers.capabilities import FeatureDescriber

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Search:
    """Queries, what was searched, and what was found: all that a re-ranker may use.

    Attributes:
        queries: The rows that were searched with.
        results: One per query, in their order.
        database: The rows that were searched.
        describer: What described both, for re-rankers that look into photos.
        open_query: Decodes the photo of a query by its number. Where a query is a part of a photo, its boxes say so.
    """

    queries: tuple[RegionDescriptors, ...]
    results: tuple[SearchResult, ...]
    database: Database
    describer: Describer | FeatureDescriber | None = None
    open_query: Callable[[int], Photo] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "queries", tuple(self.queries))
        object.__setattr__(self, "results", tuple(self.results))
        if len(self.queries) != len(self.results):
            raise ValueError(f"Search.results: expected one per query ({len(self.queries)}), found {len(self.results)}")

    @property
    def depth(self) -> int:
        """Most hits of a result, at least 1: as deep as a new search has to go."""
        return max(1, *(len(r) for r in self.results), 1)

    def again(self, queries: Iterable[RegionDescriptors], database: Database) -> Search:
        """The search of other queries, or in another database, as deep as this one."""
        asked = tuple(queries)
        return replace(self, queries=asked, results=tuple(database.search(asked, self.depth)), database=database)

    def found_photo(self, image: str) -> Photo | None:
        """The photo of an image that was found; None, and a warning, where it has gone or cannot be read any more.

        Raises:
            ValueError: No photo can be opened.
        """
        if self.database.open_photo is None:
            raise ValueError("re-ranking: expected a database whose photos can be opened, found one without photos")
        try:
            return self.database.open_photo(image)
        except (ObjembError, OSError) as error:  # one photo must not cost the answer
            log.warning("not looked into, and ranked behind those that were: %s", error)
            return None

    def query_photo(self, number: int) -> Photo:
        """The photo of a query by its number. Raises ``ValueError`` where photos cannot be opened."""
        if self.open_query is None:
            raise ValueError("re-ranking: expected queries whose photos can be opened, found vectors alone")
        return self.open_query(number)

    def needed_describer(self) -> Describer:
        """The describer of vectors. Raises ``ValueError`` where there is none, as of an exported model."""
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
    """The same of a search for visual words.

    Attributes:
        queries: The rows that were searched with.
        results: One per query, in their order.
        stored: What is stored of an image that was found.
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
    """Puts results into a better order.

    A re-ranker has no weights of its own; where it needs a network, that is the describer of the search. So it does
    not count in the fingerprint of a model: vectors do not depend on it.

    Attributes:
        depth: How many hits it wants in each result that it is given; None for all images. Given fewer, it makes do
            with those.
        scale: What the scores are that it gives, in words; None where it leaves them as they were.
    """

    kind = "rerank"
    depth: int | None
    scale: str | None = COSINE

    @abstractmethod
    def rerank(self, search: Search) -> Search:
        """The same queries in the same order, with better results.

        Results stay at least as deep as they were, and each match names the pair of boxes that matched. A re-ranker
        that changes query vectors puts them into ``queries``, one that changes the rows of the database into
        ``database``, so that the next one builds on that. What it is given is not edited. A query without rows, a
        result without hits and an empty database are normal cases.
        """

    def rerank_words(self, search: WordSearch) -> WordSearch:
        """The same of a search for visual words.

        Raises:
            ValueError: It re-ranks vectors alone.
        """
        del search
        raise ValueError(
            f"rerank: expected a re-ranker of visual words such as 'spatial_verification', found "
            f"{self.registry_name!r}, which takes vectors"
        )


def scored(match: Match, score: float) -> Match:
    """A match with another score, which its runners-up do not exceed."""
    runners_up = tuple(replace(r, score=min(r.score, score)) for r in match.runners_up)
    return replace(match, score=score, runners_up=runners_up)


def put_first(result: SearchResult, hits: Iterable[Match]) -> SearchResult:
    """A result that begins with newly scored hits, by falling score; the others follow in their old order.

    The others keep their scores where these fit in, and are lowered to the last new score where they do not: scores
    fall along a result, and what was not looked at again cannot come before what was. Of equal scores, the hit that
    comes first in ``hits`` stays first.
    """
    first = sorted(hits, key=lambda hit: -hit.score)
    new = {hit.image for hit in first}
    lowest = first[-1].score if first else float("inf")
    rest = (scored(hit, min(hit.score, lowest)) for hit in result if hit.image not in new)
    return replace(result, hits=(*first, *rest))


def search_and_rerank(
    queries: Sequence[RegionDescriptors],
    database: Database,
    rerankers: Sequence[Reranker],
    depth: int,
    describer: Describer | FeatureDescriber | None = None,
    open_query: Callable[[int], Photo] | None = None,
) -> Search:
    """Exact search, and the re-rankers in their order, each on what the one before it made.

    The results say on which scale the last re-ranker that gave scores gave them.

    Args:
        queries: The rows to search with.
        database: The rows to search.
        rerankers: What to do with the results; nothing is a normal case.
        depth: Least number of hits per result (where there are so many images); a re-ranker that wants more makes the
            results deeper, and they are not cut in the end.
        describer: What described both, for re-rankers that look into photos.
        open_query: Decodes the photo of a query by its number, likewise.
    """
    wanted = (len(database.images) if r.depth is None else r.depth for r in rerankers)
    first = tuple(database.search(queries, max(depth, *wanted, 1)))
    search = Search(tuple(queries), first, database, describer, open_query)
    for reranker in rerankers:
        before = search.results
        search = reranker.rerank(search)
        search = replace(search, results=_on_scale(reranker, before, search.results))
    return search


def rerank_words(search: WordSearch, rerankers: Sequence[Reranker]) -> WordSearch:
    """The re-rankers in their order, of a search for visual words.

    Raises:
        ValueError: One of them re-ranks vectors alone.
    """
    for reranker in rerankers:
        before = search.results
        search = reranker.rerank_words(search)
        search = replace(search, results=_on_scale(reranker, before, search.results))
    return search


def _on_scale(
    reranker: Reranker, before: Sequence[SearchResult], after: Sequence[SearchResult]
) -> tuple[SearchResult, ...]:
    """Results that say on which scale their scores are."""
    return tuple(replace(new, scale=reranker.scale or old.scale) for new, old in zip(after, before, strict=True))
