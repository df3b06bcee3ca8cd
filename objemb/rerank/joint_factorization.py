"""Localisation of the query's object in hits, by factorising both together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.extractors.map import Map
from objemb.ops.batches import batched
from objemb.ops.factorize import Concepts, factorize
from objemb.ops.grid import Grid
from objemb.ops.heat import heat_boxes
from objemb.ops.nmf import Nmf
from objemb.registry import plugin
from objemb.rerank._database import as_boxes
from objemb.rerank._looking import with_photos
from objemb.rerank.base import Reranker, Search, put_first, scored
from objemb.structures import Box, Match, Photo, Regions, SearchResult
from objemb.structures.results import COSINE

ORDERS = ("keep", "similarity")
#: Number of photos of hits that are processed at a time.
BATCH = 8


@plugin
class JointFactorization(Reranker):
    """Localisation by deep feature factorization (Collins and Susstrunk, ICIP 2019).

    The box of a query is cropped; the feature maps of this crop and of the photo of a hit are factorised together into
    a few concepts. The concept with the largest mass in the crop is taken for the object, and the box of the hit
    becomes that of the largest connected component of its thresholded heat map in the hit.

    It localises objects that cover several cells of the feature map; for smaller ones it finds the surroundings.

    Args:
        top: Number of hits per query whose photos are opened.
        rank: Number of concepts of a pair of crop and hit.
        threshold: The box encloses the cells with at least this share of the largest heat.
        size: Longest side of the photo of a hit at the network's input, in pixels.
        query_size: Longest side of the crop at the network's input, in pixels.
        order: ``"keep"`` changes only boxes, not order and scores. ``"similarity"`` describes the new boxes with the
            describer of the search, and orders these hits by the similarity of their vectors to the query's.
        init: Initialisation, see :class:`~objemb.ops.nmf.Nmf`, also for the next three.
        iterations: Maximum number of updates.
        tolerance: Relative change at which to stop.
        seed: Seed of a random initialisation.
    """

    def __init__(
        self,
        *,
        top: int = 10,
        rank: int = 3,
        threshold: float = 0.5,
        size: int = 513,
        query_size: int = 225,
        order: str = "keep",
        init: str = "random",
        iterations: int = 200,
        tolerance: float = 1e-4,
        seed: int = 0,
    ) -> None:
        self.depth = self.top = checks.whole("top", top)
        self.threshold = checks.between("threshold", threshold, 0, 1)
        self.of_hits, self.of_queries = Map(size=size), Map(size=checks.positive("query_size", query_size))
        self.order = checks.one_of("order", order, ORDERS)
        self.scale = None if order == "keep" else COSINE
        self.nmf = Nmf(rank, init, iterations, tolerance, seed)

    @torch.no_grad()
    def rerank(self, search: Search) -> Search:
        """See :meth:`Reranker.rerank`. A hit on which the concept is not active keeps its box.

        Raises:
            ValueError: Photos cannot be opened, or the describer has no backbone.
        """
        if not any(len(result) for result in search.results):
            return search
        backbone = search.needed_describer().needed_backbone("joint_factorization")
        return replace(search, results=tuple(self._located(search, i, backbone) for i in range(len(search.results))))

    def _located(self, search: Search, number: int, backbone: Backbone) -> SearchResult:
        result = search.results[number]
        first = result.hits[: self.top]
        if not first:
            return result
        query = search.query_photo(number)
        boxes = list(dict.fromkeys(hit.query_box for hit in first))
        crops = [query.part(Regions(torch.tensor([box]), query.size)) for box in boxes]
        crop_maps = dict(zip(boxes, self.of_queries.extract(crops, backbone).maps, strict=True))
        hits: dict[str, Match] = {}
        for batch in batched(first, BATCH):
            opened = list(with_photos(search, batch))
            if not opened:
                continue
            some, photos = [hit for hit, _ in opened], [photo for _, photo in opened]
            features = self.of_hits.extract(photos, backbone)
            pairs = [[crop_maps[hit.query_box], map_] for hit, map_ in zip(some, features.maps, strict=True)]
            concepts = factorize(pairs, self.nmf)
            boxes_of_hits = self._boxes(some, photos, concepts, features.grids)
            moved = [replace(hit, box=box) for hit, box in zip(some, boxes_of_hits, strict=True)]
            if self.order == "similarity":
                moved = _compared(search, number, moved, photos)
            hits.update((hit.image, hit) for hit in moved)
        if self.order == "keep":
            return replace(result, hits=tuple(hits.get(hit.image, hit) for hit in result))
        return put_first(result, hits.values())

    def _boxes(
        self, hits: Sequence[Match], photos: Sequence[Photo], concepts: Sequence[Concepts], grids: Sequence[Grid]
    ) -> Iterator[Box]:
        for hit, photo, of_pair, grid in zip(hits, photos, concepts, grids, strict=True):
            chosen = of_pair.strongest(0)
            heat = None if chosen is None else of_pair.heat[1][chosen]
            if heat is None or not bool((heat > 0).any()):
                yield hit.box
            else:
                yield as_boxes(heat_boxes(heat[None], self.threshold, grid, photo.size).tolist())[0]


def _compared(search: Search, number: int, hits: Sequence[Match], photos: Sequence[Photo]) -> list[Match]:
    """The hits, scored by the best similarity of the vector of their box and one of the query."""
    regions = [Regions(torch.tensor([hit.box]), photo.size) for hit, photo in zip(hits, photos, strict=True)]
    described = search.needed_describer().describe(photos, regions)
    rows = search.queries[number].vectors
    return [scored(hit, float((d.vectors @ rows.T).max())) for hit, d in zip(hits, described, strict=True)]
