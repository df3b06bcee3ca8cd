"""Hits ranked by the box in which the query's classes are active: localisation by class activation maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from objemb import checks
from objemb.describers.capabilities import ClassDescriber
from objemb.ops.boxes import clip
from objemb.ops.heat import hot_cells
from objemb.ops.tensors import l2
from objemb.registry import plugin
from objemb.rerank._looking import expanded, moved, with_photos
from objemb.rerank.base import Reranker, Search
from objemb.structures import Match, Photo, Regions, SearchResult


@plugin
class ClassLocalization(Reranker):
    """Localisation by class activation maps (Jimenez, Alvarez and Giro-i-Nieto, "Class-weighted convolutional features
    for visual instance search", BMVC 2017, section 3.4).

    The activation maps of the query's most probable classes are computed for each hit. The mean of the maps of the
    first of these classes is thresholded at several shares of its maximum; the largest connected component at each
    threshold gives a box. The boxes, and the box of the query, are described by their cells, weighted by the maps of
    all these classes; the most similar box becomes that of the hit, and its similarity the score.

    The query is part of the mean in the query expansion. In the paper it is the first of the hits, because the database
    contains the photos of the queries.

    Args:
        top: Number of hits per query whose photos are opened; the paper's 100 (1,000 at most).
        mixed: Number of best boxes averaged with the query for another ranking; the paper's 10; 0 for none.
        classes: Number of the query's most probable classes that weight the cells of a box; the paper's 6.
        averaged: Number of these classes whose maps are averaged and thresholded; the paper's 2.
        thresholds: Thresholds as shares of the maximum.
        smallest: Boxes with fewer cells along a side are left out; the authors' 5. If none remains, the whole hit is
            described.
    """

    def __init__(
        self,
        *,
        top: int = 100,
        mixed: int = 10,
        classes: int = 6,
        averaged: int = 2,
        thresholds: Sequence[float] = (0.01, 0.1, 0.2, 0.3, 0.4),
        smallest: int = 5,
    ) -> None:
        self.depth = self.top = checks.whole("top", top)
        self.mixed = checks.whole("mixed", mixed, 0)
        self.classes = checks.whole("classes", classes)
        self.averaged = checks.whole("averaged", averaged)
        if averaged > classes:
            raise ValueError(f"averaged: expected at most the number of classes ({classes}), found {averaged}")
        several = checks.several("thresholds", thresholds)
        self.thresholds = tuple(checks.between("thresholds", t, 0, 1) for t in several)
        self.smallest = checks.whole("smallest", smallest)

    @torch.no_grad()
    def rerank(self, search: Search) -> Search:
        """See :meth:`Reranker.rerank`. A query with several boxes is looked for by the one that matched a hit best.

        Raises:
            TypeError: The describer has no class activation maps.
            ValueError: Photos cannot be opened.
        """
        if not any(len(result) for result in search.results):
            return search
        describer = search.needed_describer()
        if not isinstance(describer, ClassDescriber):
            raise TypeError(f"class_localization: expected class_weighted, found {type(describer).__name__}")
        results = [self._located(search, describer, n) for n in range(len(search.results))]
        return replace(search, results=tuple(results))

    def _located(self, search: Search, describer: ClassDescriber, number: int) -> SearchResult:
        result = search.results[number]
        first = result.hits[: self.top]
        if not first:
            return result
        photo = search.query_photo(number)
        asked = {box: self._asked(describer, photo, box) for box in dict.fromkeys(hit.query_box for hit in first)}
        located = [
            self._in_hit(describer, hit, opened, *asked[hit.query_box]) for hit, opened in with_photos(search, first)
        ]
        mean = l2(torch.stack([vector for _, vector in asked.values()]).mean(dim=0, keepdim=True))[0]
        return expanded(result, [hit for hit, _ in located], [v for _, v in located], mean, self.mixed)

    def _asked(self, describer: ClassDescriber, photo: Photo, box: tuple[float, ...]) -> tuple[list[int], Tensor]:
        """The most probable classes of a box, cut out at the scale of its photo, and the vector of the box in its
        photo."""
        region = Regions(torch.tensor([box]), photo.size)
        cut = photo.part(region)
        (likely,) = describer.for_part(cut.size, photo.size).class_maps([cut])
        classes = likely.classes[: self.classes].tolist()
        return classes, describer.describe_as(photo, region, classes)[0]

    def _in_hit(
        self, describer: ClassDescriber, hit: Match, photo: Photo, classes: Sequence[int], asked: Tensor
    ) -> tuple[Match, Tensor]:
        (active,) = describer.class_maps([photo], [classes[: self.averaged]])
        heat = active.maps.mean(dim=0, keepdim=True)
        cells = torch.cat([hot_cells(heat, share) for share in self.thresholds])
        cells = cells[((cells[:, 2:] - cells[:, :2]) >= self.smallest).all(dim=1)]
        boxes = clip(active.grid.to_pixels(cells), photo.size) if len(cells) else Regions.whole(photo.size).boxes
        vectors = describer.describe_as(photo, Regions(boxes, photo.size), classes)
        best = int((vectors @ asked).argmax())
        return moved(hit, boxes[best].tolist()), vectors[best]
