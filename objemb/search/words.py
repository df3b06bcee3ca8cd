"""Search for visual words, with localisation of the matches and spatial verification."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from objemb.index.collection import ImageCollection
from objemb.index.storage.visual_words import WordRows
from objemb.ops.word_matching import region_scores
from objemb.rerank.base import Reranker, WordSearch, rerank_words
from objemb.structures import Match, SearchResult, VisualWords
from objemb.structures.fields import points_inside

logger = logging.getLogger(__name__)


def search_words(
    index: ImageCollection,
    query: VisualWords,
    search: Callable[[int], SearchResult],
    k: int,
    rerankers: Sequence[Reranker],
    min_score: float | None,
    where: str | None = None,
) -> SearchResult:
    """Find the photos that share visual words with a query, localise the matches, and re-rank.

    Args:
        index: An index of visual words.
        query: The visual words of the query.
        search: Searches for a number of photos.
        k: Number of photos to return.
        rerankers: Re-rankers in order; each determines how many hits it needs.
        min_score: Leave out photos with a lower score, on the scale of the last re-ranker.
        where: The filter of the search: a match lies in a region that matches it.

    Raises:
        ValueError: A re-ranker needs vectors, or something that is not stored.
    """
    if not len(query.words):
        logger.warning("no local features in what is searched for, so that nothing can be found")
    wanted = (len(index) if r.depth is None else r.depth for r in rerankers)
    result = localised(index, query, search(max(k, *wanted, 0)), where)
    done = rerank_words(WordSearch((query,), (result,), lambda image: stored_words(index, image, where)), rerankers)
    (result,) = done.results
    return replace(result, hits=tuple(hit for hit in result.hits[:k] if min_score is None or hit.score >= min_score))


def localised(
    index: ImageCollection, query: VisualWords, result: SearchResult, where: str | None = None
) -> SearchResult:
    """Replace the box of each hit by the region that matches the query best, among those that match the filter, if a
    photo is a single row and the places of its features are stored; otherwise the hits are not changed."""
    schema = cast(WordRows, index.schema)
    if schema.items != "images" or not schema.positions:
        return result
    boxes = [tuple(box) for box in query.regions.boxes.tolist()]

    def placed(hit: Match) -> Match:
        stored = stored_words(index, hit.image)
        scores = region_scores(query, boxes.index(hit.query_box), stored, schema.match_kernel)
        if where is not None:
            scores = np.where(index.fitting(hit.image, where), scores, -1)
        best = int(scores.argmax())
        if not scores[best] > 0:
            return hit
        x1, y1, x2, y2 = stored.regions.boxes[best].tolist()
        return replace(hit, box=(x1, y1, x2, y2), label=stored.regions.label_names[best])

    return replace(result, hits=tuple(placed(hit) for hit in result))


def stored_words(index: ImageCollection, image: str, where: str | None = None) -> VisualWords:
    """The stored visual words of a hit; with a filter, only the local features in regions that match it."""
    stored = cast(VisualWords, index.get(image))
    if where is None or stored.places is None:
        return stored
    boxes = stored.regions.boxes[index.fitting(image, where)]
    inside = np.flatnonzero(points_inside(stored.places.points, boxes).any(axis=0))
    return replace(stored, places=stored.places[inside])
