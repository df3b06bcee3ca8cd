"""Hits ranked by how many local features agree on where the object is: spatial verification."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np

from objemb import checks
from objemb.local_features.sift import Sift
from objemb.ops.local_features import matched
from objemb.ops.opencv import agreeing
from objemb.registry import plugin
from objemb.rerank._looking import moved
from objemb.rerank.base import Reranker, Search, put_first, scored
from objemb.structures import Box, LocalFeatures, Match, SearchResult
from objemb.types import Float64Array

#: Photos whose features are kept: the same hits come up for many queries.
KEPT = 1000
#: An affine map needs this many pairs, and one more that could contradict.
LEAST_PAIRS = 4


@plugin
class SpatialVerification(Reranker):
    """Geometric verification with an affine map (Philbin et al., "Object retrieval with large vocabularies and fast
    spatial matching", CVPR 2007; settings of Teichmann et al., "Detect-to-retrieve", CVPR 2019, as far as they fit).

    Local features within the query box are matched with those of each hit, and RANSAC looks for the affine map on
    which most pairs agree. Hits are ranked by that number, then by their old score. Detect-to-retrieve matches learned
    local features; here they are SIFT features, compared by their square roots.

    The new score of a hit is that number plus a share of 1 that keeps the old order. Where enough pairs agree, the
    matched box becomes the one that the map takes the query box to.

    Args:
        top: So many hits of each query are verified; 100, as in detect-to-retrieve.
        size: Longest side of photos in pixels.
        features: Number of strongest features used per photo.
        ratio: A match has to be nearer than this share of the distance of the next.
        tolerance: Pixels of the original photo by which a point may miss.
        least: From so many agreeing pairs on, the box of a hit is replaced.
    """

    scale = "number of local features that agree; fractions keep the old order"

    def __init__(
        self,
        *,
        top: int = 100,
        size: int = 1024,
        features: int = 1000,
        ratio: float = 0.8,
        tolerance: float = 10.0,
        least: int = 8,
    ) -> None:
        self.depth = self.top = checks.whole("top", top)
        self.extractor = Sift(size=checks.whole("size", size), count=checks.whole("features", features))
        self.ratio = checks.between("ratio", ratio, 0, 1)
        self.tolerance = checks.positive("tolerance", tolerance)
        self.least = checks.whole("least", least, LEAST_PAIRS)

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
        return replace(search, results=tuple(self._verified(search, n, of_hit) for n in range(len(search.results))))

    def _verified(self, search: Search, number: int, of_hit: Callable[[str], LocalFeatures | None]) -> SearchResult:
        result = search.results[number]
        first = result.hits[: self.top]
        if not first:
            return result
        query = self.extractor.extract([search.query_photo(number)])[0]
        low, high = first[-1].score, first[0].score
        found = []
        for hit in first:
            features = of_hit(hit.image)
            if features is None:
                continue
            inside = query.inside(np.array([hit.query_box]))[0]
            pairs, box = self._agreement(query[inside], hit, features)
            old = (hit.score - low) / (high - low) if high > low else 0.0
            found.append(scored(moved(hit, box) if box else hit, pairs + old / 2))
        return put_first(result, found)

    def _agreement(self, query: LocalFeatures, hit: Match, features: LocalFeatures) -> tuple[int, Box | None]:
        """Number of pairs that agree, and where the query box comes to lie, if they are enough."""
        pairs = matched(query, features, self.ratio)
        if len(pairs) < LEAST_PAIRS:
            return 0, None
        found, count = agreeing(query.points[pairs[:, 0]], features.points[pairs[:, 1]], self.tolerance)
        if found is None or count < self.least:
            return count, None
        return count, _taken(hit.query_box, found, features.size)


def _taken(box: Box, affine: Float64Array, size: tuple[int, int]) -> Box | None:
    """The upright box around where an affine map takes a box, cut off at the photo; None where nothing is left."""
    x1, y1, x2, y2 = box
    corners = np.array([[x1, y1, 1], [x2, y1, 1], [x1, y2, 1], [x2, y2, 1]]) @ affine.T
    limits = np.array([size[1], size[0]])
    low, high = corners.min(axis=0).clip(0, limits), corners.max(axis=0).clip(0, limits)
    return (float(low[0]), float(low[1]), float(high[0]), float(high[1])) if (low < high).all() else None
