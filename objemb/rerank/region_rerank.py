"""Hits ranked by the proposal that is most similar to the query: region re-ranking."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from objemb import checks
from objemb.detectors.capabilities import NetworkDetector
from objemb.ops.tensors import as_tensor, l2
from objemb.regions.base import RegionSource
from objemb.regions.rpn_proposals import RpnProposals
from objemb.registry import plugin
from objemb.rerank._looking import box_vector, expanded, moved
from objemb.rerank.base import Reranker, Search
from objemb.structures import Match, SearchResult

#: Number of photos whose regions are cached, because the same hits occur for many queries.
KEPT = 200


@plugin
class RegionRerank(Reranker):
    """Region re-ranking over the proposals of a detector (Salvador, Giro-i-Nieto, Marques and Satoh, "Faster R-CNN
    features for instance search", CVPR workshops 2016).

    After a search by whole images, each hit is scored by its proposal whose features are most similar to those of the
    query box, and this proposal becomes its box. Finally, hits are ranked by the mean of the features of the query and
    of the best boxes.

    Args:
        top: Number of hits per query whose photos are opened; the paper's 100.
        mixed: Number of best boxes averaged with the query; the paper's 5; 0 for no expansion.
        regions: Source of proposals; null for the proposal network of the detector whose features the describer pools
            (``detector_trunk``).
        proposals: Maximum number of proposals per photo.
    """

    def __init__(
        self, *, top: int = 100, mixed: int = 5, regions: RegionSource | None = None, proposals: int = 300
    ) -> None:
        self.depth = self.top = checks.whole("top", top)
        self.mixed = checks.whole("mixed", mixed, 0)
        self.regions = regions
        self.proposals = checks.whole("proposals", proposals)

    @torch.no_grad()
    def rerank(self, search: Search) -> Search:
        """See :meth:`Reranker.rerank`. Of a query with several boxes, each hit is scored by the one that fits best.

        Raises:
            ValueError: Photos cannot be opened, or there is no source of proposals.
        """
        if not any(len(result) for result in search.results):
            return search
        source = self._source(search)
        of_hit = lru_cache(maxsize=KEPT)(lambda image: _described_regions(search, source, image))
        return replace(search, results=tuple(self._ranked(search, n, of_hit) for n in range(len(search.results))))

    def _ranked(self, search: Search, number: int, of_hit: Callable[[str], _Described | None]) -> SearchResult:
        result, query = search.results[number], search.queries[number]
        first = result.hits[: self.top]
        if not first or not len(query):
            return result
        asked = box_vector(search, search.query_photo(number), query.regions)
        described = ((hit, of_hit(hit.image)) for hit in first)
        best = [_best(hit, asked, result, *of_photo) for hit, of_photo in described if of_photo is not None]
        mean = l2(asked.mean(dim=0, keepdim=True))[0]
        return expanded(result, [hit for hit, _ in best], [v for _, v in best], mean, self.mixed)

    def _source(self, search: Search) -> RegionSource:
        if self.regions is not None:
            return self.regions
        backbone = search.needed_describer().backbone
        detector = None if backbone is None else backbone.source_detector()
        if not isinstance(detector, NetworkDetector):
            raise ValueError(
                "region_rerank: expected regions, such as {name: rpn_proposals, ...}, or a describer that pools the "
                f"features of a detector (detector_trunk), found {type(search.describer).__name__} without them"
            )
        return RpnProposals(detector=detector, max_regions=self.proposals)


def _best(hit: Match, asked: Tensor, result: SearchResult, vectors: Tensor, boxes: Tensor) -> tuple[Match, Tensor]:
    """A hit with the box that is most similar to any of the query's, and the vector of that box."""
    products = vectors @ asked.T
    row, query_row = divmod(int(products.argmax()), products.shape[1])
    return replace(moved(hit, boxes[row].tolist()), query_box=result.query_boxes[query_row]), vectors[row]


#: Vectors ``(N, D)`` and boxes ``(N, 4)`` of all regions of a photo, the whole image among them.
_Described = tuple[Tensor, Tensor]


def _described_regions(search: Search, source: RegionSource, image: str) -> _Described | None:
    """The regions of a source in the photo of a hit; None if it can no longer be opened."""
    photo = search.found_photo(image)
    if photo is None:
        return None
    (regions,) = source.find([photo])
    return box_vector(search, photo, regions), as_tensor(regions.boxes)
