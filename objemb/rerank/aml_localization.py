"""Hits ranked by the box in them that is most like the query: approximate max-pooling localisation."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.extractors.map import Map
from objemb.ops.box_search import BoxSearch
from objemb.ops.boxes import clip
from objemb.ops.cut import cut_out
from objemb.ops.normalize import l2
from objemb.ops.rmac import rmac_cells
from objemb.registry import plugin
from objemb.rerank._looking import box_vector, expanded, moved
from objemb.rerank.base import Reranker, Search
from objemb.structures import Match, Photo, Regions, SearchResult

VECTORS = ("rmac", "mac")


@plugin
class AmlLocalization(Reranker):
    """Localisation by approximate max-pooling, and query expansion (AML + QE: Tolias, Sicre and Jegou, "Particular
    object retrieval with integral max-pooling of CNN activations", 2015, sections 4 and 5).

    In the feature map of each hit, the box is searched for whose maximum activations are most like those of the query.
    The hit is then scored by the vector of that box: the describer's, over an R-MAC grid in the box or over the box
    alone, compared with that of the query. The mean of the query and of the best boxes' vectors ranks once more. The
    paper's quantised activations, which served its storage, are left out.

    Args:
        top: So many hits of each query are looked into; the paper's 1,000.
        mixed: So many vectors of the best boxes join the query; the paper's 5; 0 for no expansion.
        vector: ``rmac``: the sum over the grid laid in the box; ``mac``: the box alone.
        levels: Levels of that grid.
        size: Longest side of photos when they enter the network for the search of boxes, in pixels.
        step: Cells between corners of the exhaustive search, see :class:`objemb.ops.box_search.BoxSearch`.
        stretch: Greatest factor between the ratios of sides of box and query.
        power: That stands for the maximum.
    """

    def __init__(
        self,
        *,
        top: int = 1000,
        mixed: int = 5,
        vector: str = "rmac",
        levels: int = 3,
        size: int = 1024,
        step: int = 3,
        stretch: float = 1.1,
        power: float = 10.0,
    ) -> None:
        self.depth = self.top = checks.whole("top", top)
        self.mixed = checks.whole("mixed", mixed, 0)
        self.vector = checks.one_of("vector", vector, VECTORS)
        self.levels = checks.whole("levels", levels)
        self.extractor = Map(size=size)
        self.boxes = BoxSearch(step, stretch, power)

    @torch.no_grad()
    def rerank(self, search: Search) -> Search:
        """See :meth:`Reranker.rerank`. A query with several boxes is looked for by the one that matched each hit best.

        Raises:
            ValueError: Photos cannot be opened, or the describer has no backbone of its own.
        """
        results = [self._located(search, number) for number in range(len(search.results))]
        return replace(search, results=tuple(results))

    def _located(self, search: Search, number: int) -> SearchResult:
        result = search.results[number]
        first = result.hits[: self.top]
        if not first:
            return result
        backbone = _backbone(search)
        photo = search.query_photo(number)
        queries = {box: self._query(search, backbone, photo, box) for box in dict.fromkeys(h.query_box for h in first)}
        found = [self._in_hit(search, backbone, hit, queries[hit.query_box]) for hit in first]
        hits, vectors = [hit for hit, _ in found], torch.stack([vector for _, vector in found])
        mean = l2(torch.stack([q.vector for q in queries.values()]).mean(dim=0, keepdim=True))[0]
        return expanded(result, hits, vectors, mean, self.mixed)

    def _query(self, search: Search, backbone: Backbone, photo: Photo, box: tuple[float, ...]) -> _Query:
        """What is looked for: a part of a photo, cut out and seen as a picture of its own."""
        cut = cut_out(photo, Regions(torch.tensor([box]), photo.size))
        (map_,) = self.extractor.see([cut], backbone).maps
        maxima = map_.flatten(1).amax(dim=1).float().cpu()
        return _Query(maxima, cut.size[0] / cut.size[1], self._vector(search, cut, Regions.whole(cut.size)))

    def _in_hit(self, search: Search, backbone: Backbone, hit: Match, query: _Query) -> tuple[Match, Tensor]:
        """A hit with its new box, and the vector of that box."""
        photo = search.found_photo(hit.image)
        seen = self.extractor.see([photo], backbone)
        cells, _ = self.boxes.best(seen.maps[0].float().cpu(), query.maxima, query.ratio)
        box = clip(seen.grids[0].to_pixels(cells[None].double()), photo.size).float()
        return moved(hit, box[0].tolist()), self._vector(search, photo, Regions(box, photo.size))

    def _vector(self, search: Search, photo: Photo, box: Regions) -> Tensor:
        """The unit vector of a box."""
        parts = box if self.vector == "mac" else Regions(_squares(box.boxes[0], self.levels), photo.size)
        return l2(box_vector(search, photo, parts).sum(dim=0, keepdim=True))[0]


class _Query(NamedTuple):
    """The maxima ``(C,)`` of a query's map, its height by width, and its vector ``(D,)``."""

    maxima: Tensor
    ratio: float
    vector: Tensor


def _squares(box: Tensor, levels: int) -> Tensor:
    """The grid of R-MAC laid in a box: float ``(R, 4)``, in the frame of the box; the box itself where it is empty."""
    x1, y1, x2, y2 = box.tolist()
    if x2 - x1 < 1 or y2 - y1 < 1:
        return box[None]
    cells = rmac_cells(int(y2 - y1), int(x2 - x1), levels)
    return cells.float() + torch.tensor([x1, y1, x1, y1])


def _backbone(search: Search) -> Backbone:
    backbone = getattr(search.needed_describer(), "backbone", None)
    if not isinstance(backbone, Backbone):
        found = type(search.describer).__name__
        raise ValueError(f"aml_localization: expected a describer with a backbone, such as R-MAC's, found {found}")
    return backbone
