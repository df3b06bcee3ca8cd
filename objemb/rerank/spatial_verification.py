"""Hits ranked by the number of local features that agree with one affine map: spatial verification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TypeAlias

import numpy as np

from objemb import checks
from objemb.local_features.sift import Sift
from objemb.ops.feature_matching import nearest_pairs
from objemb.ops.opencv import agreeing
from objemb.ops.word_matching import matched_places
from objemb.registry import plugin
from objemb.rerank._looking import moved
from objemb.rerank.base import Reranker, Search, WordSearch, put_first, scored
from objemb.structures import Box, LocalFeatures, Match, SearchResult, VisualWords
from objemb.types import BoolArray, Float32Array, Float64Array

#: Number of photos whose features are cached, because the same hits occur for many queries.
KEPT = 1000
#: An affine map needs this many pairs, and one more that could contradict.
MIN_PAIRS = 4
#: A number of pairs of features that agree, and where the object is then; None where they are too few to say.
Agreement: TypeAlias = tuple[int, Box | None]


@plugin
class SpatialVerification(Reranker):
    """Geometric verification with an affine map (Philbin et al., "Object retrieval with large vocabularies and fast
    spatial matching", CVPR 2007; settings of Teichmann et al., "Detect-to-retrieve", CVPR 2019, as far as they fit).

    Local features within the query box are matched with those of each hit, and RANSAC looks for the affine map on
    which most pairs agree. Hits are ranked by that number, then by their old score. Detect-to-retrieve matches learned
    local features. Of a model of vectors, these here are SIFT features of the photos, compared by their square roots,
    and the matched box becomes the one that the map takes the query box to, where enough pairs agree. Of a model of
    visual words they are the features that are stored with the words (``aggregator.positions``), so that no photo is
    opened: those in the same word are compared by the signs of their residuals. As that rules out fewer pairs, some
    agree by chance, and only ``least`` of them or more count. A box that the words have found stays; where they have
    found the whole photo, the matched box becomes the one that the map takes the query box to; of a query that is a
    whole photo, which says nothing about the size of the object, the one that the agreeing features of the hit cover.

    The new score of a hit is that number plus a share of 1 that keeps the old order.

    Args:
        top: Number of hits per query that are verified; 100, as in detect-to-retrieve.
        size: Longest side of photos in pixels; of photos that are opened.
        features: Number of strongest features used per photo; likewise.
        ratio: A match has to be nearer than this share of the distance of the next; likewise.
        similarity: Of visual words, the least inner product of the signs of two residuals, as a share of their length:
            from -1 to 1.
        tolerance: Pixels of the original photo by which a point may miss.
        least: Least number of inliers from which the box of a hit is replaced; of visual words, from which they count.
    """

    scale = "number of local features that agree; fractions keep the old order"

    def __init__(
        self,
        *,
        top: int = 100,
        size: int = 1024,
        features: int = 1000,
        ratio: float = 0.8,
        similarity: float = 0.2,
        tolerance: float = 10.0,
        least: int = 8,
    ) -> None:
        self.depth = self.top = checks.whole("top", top)
        self.extractor = Sift(size=checks.whole("size", size), count=checks.whole("features", features))
        self.ratio = checks.between("ratio", ratio, 0, 1)
        self.similarity = checks.between("similarity", similarity, -1, 1)
        self.tolerance = checks.positive("tolerance", tolerance)
        self.least = checks.whole("least", least, MIN_PAIRS)

    def rerank(self, search: Search) -> Search:
        """See :meth:`Reranker.rerank`.

        Raises:
            ValueError: Photos cannot be opened.
            ImportError: OpenCV is not installed.
        """

        def look(image: str) -> LocalFeatures | None:
            photo = search.found_photo(image)
            return None if photo is None else self.extractor.extract([photo])[0]

        of_hit = lru_cache(maxsize=KEPT)(look)

        def verified(number: int, result: SearchResult) -> SearchResult:
            if not result.hits:
                return result
            query = self.extractor.extract([search.query_photo(number)])[0]
            return self._verified(result, lambda hit: self._by_features(query, hit, of_hit(hit.image)))

        return replace(search, results=tuple(verified(n, result) for n, result in enumerate(search.results)))

    def rerank_words(self, search: WordSearch) -> WordSearch:
        """See :meth:`Reranker.rerank_words`.

        Raises:
            ValueError: The places of features are not stored.
            ImportError: OpenCV is not installed.
        """

        def verified(query: VisualWords, result: SearchResult) -> SearchResult:
            return self._verified(result, lambda hit: self._by_words(query, hit, search.stored(hit.image)))

        pairs = zip(search.queries, search.results, strict=True)
        return replace(search, results=tuple(verified(query, result) for query, result in pairs))

    def _verified(self, result: SearchResult, agreement: Callable[[Match], Agreement | None]) -> SearchResult:
        """The first hits by the number of features that agree, then by their old score; those of which nothing is
        known come behind."""
        first = result.hits[: self.top]
        if not first:
            return result
        low, high = first[-1].score, first[0].score
        verified = []
        for hit in first:
            agreed = agreement(hit)
            if agreed is None:
                continue
            count, box = agreed
            old = (hit.score - low) / (high - low) if high > low else 0.0
            verified.append(scored(moved(hit, box) if box else hit, count + old / 2))
        return put_first(result, verified)

    def _by_features(self, query: LocalFeatures, hit: Match, features: LocalFeatures | None) -> Agreement | None:
        """Number of pairs that agree, and where the query box comes to lie, if they are enough."""
        if features is None:
            return None
        inside = query[query.inside(np.array([hit.query_box]))[0]]
        pairs = nearest_pairs(inside, features, self.ratio)
        affine, agree = self._agreeing(inside.points[pairs[:, 0]], features.points[pairs[:, 1]])
        count = int(agree.sum())
        if affine is None or count < self.least:
            return count, None
        return count, _taken(hit.query_box, affine, features.size)

    def _by_words(self, query: VisualWords, hit: Match, stored: VisualWords) -> Agreement:
        """Number of pairs that agree, if they are enough, and the box of a photo found as a whole."""
        if query.places is None or stored.places is None:
            which = "a query of a single photo" if query.places is None else "an index"
            raise ValueError(
                f"spatial_verification: expected {which} with the places of local features (aggregator.positions=true)"
                ", found none"
            )
        inside = query.places.inside(hit.query_box)
        pairs = matched_places(inside, stored.places, query.dim, self.similarity)
        there = stored.places.points[pairs[:, 1]]
        affine, agree = self._agreeing(inside.points[pairs[:, 0]], there)
        count = int(agree.sum())
        if affine is None or count < self.least:
            return 0, None
        if hit.box != _whole(stored):
            return count, None
        if hit.query_box != _whole(query):
            return count, _taken(hit.query_box, affine, stored.regions.size)
        (x1, y1), (x2, y2) = there[agree].min(axis=0).tolist(), there[agree].max(axis=0).tolist()
        return count, (x1, y1, x2, y2)

    def _agreeing(self, first: Float32Array, second: Float32Array) -> tuple[Float64Array | None, BoolArray]:
        """The affine map of pairs of points, as :func:`objemb.ops.opencv.agreeing` finds it; None of too few."""
        if len(first) < MIN_PAIRS:
            return None, np.zeros(len(first), bool)
        return agreeing(first, second, self.tolerance)


def _whole(words: VisualWords) -> Box:
    """The box of the whole image."""
    height, width = words.regions.size
    return (0.0, 0.0, float(width), float(height))


def _taken(box: Box, affine: Float64Array, size: tuple[int, int]) -> Box | None:
    """The upright box around where an affine map takes a box, cut off at the photo; None where nothing is left."""
    x1, y1, x2, y2 = box
    corners = np.array([[x1, y1, 1], [x2, y1, 1], [x1, y2, 1], [x2, y2, 1]]) @ affine.T
    limits = np.array([size[1], size[0]])
    low, high = corners.min(axis=0).clip(0, limits), corners.max(axis=0).clip(0, limits)
    return (float(low[0]), float(low[1]), float(high[0]), float(high[1])) if (low < high).all() else None
