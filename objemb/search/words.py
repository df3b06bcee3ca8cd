"""Search for visual words, with localisation of the matches and spatial verification."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from objemb.index.storage.visual_words import WordRows
from objemb.index.store import Index
from objemb.ops.word_matching import region_scores
from objemb.rerank.base import Reranker, WordSearch, rerank_words
from objemb.structures import Match, SearchResult, VisualWords


def search_words(
    index: Index,
    query: VisualWords,
    search: Callable[[int], SearchResult],
    k: int,
    rerankers: Sequence[Reranker],
    min_score: float | None,
) -> SearchResult:
    """Find the photos that share visual words with a query, localise the matches, and re-rank.

    Args:
        index: An index of visual words.
        query: The visual words of the query.
        search: Searches for a number of photos.
        k: Number of photos to return.
        rerankers: Re-rankers in order; each determines how many hits it needs.
        min_score: Leave out photos with a lower score, on the scale of the last re-ranker.

    Raises:
        ValueError: A re-ranker needs vectors, or something that is not stored.
    """
    wanted = (len(index) if r.depth is None else r.depth for r in rerankers)
    result = localised(index, query, search(max(k, *wanted, 0)))
    done = rerank_words(WordSearch((query,), (result,), lambda image: stored_words(index, image)), rerankers)
    (result,) = done.results
    return replace(result, hits=tuple(hit for hit in result.hits[:k] if min_score is None or hit.score >= min_score))


def localised(index: Index, query: VisualWords, result: SearchResult) -> SearchResult:
    """Replace the box of each hit by the region that matches the query best, if a photo is a single row and the places
    of its features are stored; otherwise the hits are not changed."""
    schema = cast(WordRows, index.schema)
    if schema.items != "images" or not schema.positions:
        return result
    boxes = [tuple(box) for box in query.regions.boxes.tolist()]

    def placed(hit: Match) -> Match:
        stored = stored_words(index, hit.image)
        scores = region_scores(query, boxes.index(hit.query_box), stored, schema.match_kernel)
        best = int(scores.argmax())
        if not scores[best] > 0:
            return hit
        x1, y1, x2, y2 = stored.regions.boxes[best].tolist()
        return replace(hit, box=(x1, y1, x2, y2), label=stored.regions.label_names[best])

    return replace(result, hits=tuple(placed(hit) for hit in result))


def stored_words(index: Index, image: str) -> VisualWords:
    """The stored visual words of a hit."""
    return cast(VisualWords, index.get(image))
