"""Search for visual words: what an index finds, where in each photo it matched, and verification."""

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
    """The photos that share words with a query, where they match, and in the order of the re-rankers.

    Args:
        index: Of visual words.
        query: What is searched for.
        search: Finds a number of photos.
        k: Number of photos.
        rerankers: In their order; they see as many hits as they want.
        min_score: Photos of lower scores are left out, on the scale of the last re-ranker.

    Raises:
        ValueError: A re-ranker takes vectors, or needs what is not stored.
    """
    wanted = (len(index) if r.depth is None else r.depth for r in rerankers)
    result = localised(index, query, search(max(k, *wanted, 0)))
    done = rerank_words(WordSearch((query,), (result,), lambda image: stored_words(index, image)), rerankers)
    (result,) = done.results
    return replace(result, hits=tuple(hit for hit in result.hits[:k] if min_score is None or hit.score >= min_score))


def localised(index: Index, query: VisualWords, result: SearchResult) -> SearchResult:
    """Hits whose box is the region of the photo that has most of the query, where one row stands for a photo and the
    places of its features are stored; else as they are."""
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
    """What an index of visual words holds of an image that was found."""
    return cast(VisualWords, index.get(image))
