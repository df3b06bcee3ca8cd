"""Hits ranked by the box in them that is most like the query: approximate max-pooling localisation."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.describers.base import Describer
from objemb.extractors.map import Map
from objemb.ops.arrays import as_tensor
from objemb.ops.boxes import clip
from objemb.ops.grid import Grid
from objemb.ops.images import cut_out
from objemb.ops.normalize import l2
from objemb.ops.rmac import rmac_cells
from objemb.registry import plugin
from objemb.rerank._box_search import BoxSearch
from objemb.rerank._looking import expanded, moved, with_photos
from objemb.rerank.base import Reranker, Search
from objemb.structures import Match, Photo, Regions, SearchResult

VECTORS = ("rmac", "mac")


@plugin
class AmlLocalization(Reranker):
    """Localisation by approximate max-pooling, and query expansion (AML + QE: Tolias, Sicre and Jegou, "Particular
    object retrieval with integral max-pooling of CNN activations", 2015, sections 4 and 5).

    In the feature map of each hit, the box is searched for whose maximum activations are most like those of the query.
    The hit is then scored by the vector of that box: the describer's, over an R-MAC grid in the cells of the box or
    over the box alone, compared with that of the query. The mean of the query and of the best boxes' vectors ranks once
    more. As in the paper, one map serves for both: the box is searched for in it, and described from it; the query is
    cut out at the scale of its photo. The paper's quantised activations, which served its storage, are left out.

    Args:
        top: So many hits of each query are looked into; the paper's 1,000.
        mixed: So many vectors of the best boxes join the query; the paper's 5; 0 for no expansion.
        vector: ``rmac``: the sum over the grid laid in the box; ``mac``: the box alone.
        levels: Levels of that grid.
        size: Longest side of photos when they enter the network to be looked into, in pixels; None for what the
            describer's own extractor, a ``map``, makes of them.
        step: Cells between corners of the exhaustive search, see :class:`objemb.rerank._box_search.BoxSearch`.
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
        size: int | None = None,
        step: int = 3,
        stretch: float = 1.1,
        power: float = 10.0,
    ) -> None:
        self.depth = self.top = checks.whole("top", top)
        self.mixed = checks.whole("mixed", mixed, 0)
        self.vector = checks.one_of("vector", vector, VECTORS)
        self.levels = checks.whole("levels", levels)
        self.extractor = None if size is None else Map(size=size)
        self.boxes = BoxSearch(step, stretch, power)

    @torch.no_grad()
    def rerank(self, search: Search) -> Search:
        """See :meth:`Reranker.rerank`. A query with several boxes is looked for by the one that matched each hit best.

        Raises:
            ValueError: Photos cannot be opened; the describer has no backbone of its own, or sees no map and there is
                no ``size``.
        """
        if not any(len(result) for result in search.results):
            return search
        seer = self._seer(search.needed_describer())
        results = [self._located(search, seer, number) for number in range(len(search.results))]
        return replace(search, results=tuple(results))

    def _seer(self, describer: Describer) -> Describer:
        """The describer with the extractor that photos are looked into with."""
        if not isinstance(getattr(describer, "backbone", None), Backbone):
            found = type(describer).__name__
            raise ValueError(f"aml_localization: expected a describer with a backbone, such as R-MAC's, found {found}")
        if self.extractor is None:
            if not isinstance(getattr(describer, "extractor", None), Map):
                found = type(getattr(describer, "extractor", None)).__name__
                raise ValueError(f"aml_localization: size: expected the side of maps in pixels, found none and {found}")
            return describer
        other = copy.copy(describer)  # shares the networks
        vars(other)["extractor"] = self.extractor
        return other

    def _located(self, search: Search, seer: Describer, number: int) -> SearchResult:
        result = search.results[number]
        first = result.hits[: self.top]
        if not first:
            return result
        photo = search.query_photo(number)
        queries = {box: self._query(seer, photo, box) for box in dict.fromkeys(h.query_box for h in first)}
        found = [self._in_hit(seer, opened, hit, queries[hit.query_box]) for hit, opened in with_photos(search, first)]
        mean = l2(torch.stack([q.vector for q in queries.values()]).mean(dim=0, keepdim=True))[0]
        return expanded(result, [hit for hit, _ in found], [v for _, v in found], mean, self.mixed)

    def _query(self, seer: Describer, photo: Photo, box: tuple[float, ...]) -> _Query:
        """What is looked for: a part of a photo, cut out and seen at the scale of its photo."""
        cut = cut_out(photo, Regions(torch.tensor([box]), photo.size))
        seer = seer.for_part(cut.size, photo.size) or seer
        map_, grid = _map(seer, cut)
        maxima = map_.flatten(1).amax(dim=1).float().cpu()
        whole = torch.tensor([0, 0, grid.width, grid.height])
        return _Query(maxima, cut.size[0] / cut.size[1], self._vector(seer, cut, grid, whole))

    def _in_hit(self, seer: Describer, photo: Photo, hit: Match, query: _Query) -> tuple[Match, Tensor]:
        """A hit with its new box, and the vector of that box."""
        map_, grid = _map(seer, photo)
        cells, _ = self.boxes.best(map_.float().cpu(), query.maxima, query.ratio)
        (box,) = _in_pixels(cells[None], grid, photo).boxes.tolist()
        return moved(hit, box), self._vector(seer, photo, grid, cells)

    def _vector(self, seer: Describer, photo: Photo, grid: Grid, cells: Tensor) -> Tensor:
        """The unit vector of a box of cells ``(4,)``, over the squares of R-MAC in it or over the box alone.

        Boxes of whole cells are pooled from exactly these cells, so that the squares are laid as if the box were a map.
        """
        x1, y1, x2, y2 = cells.tolist()
        parts = cells[None]
        if self.vector == "rmac":
            parts = rmac_cells(y2 - y1, x2 - x1, self.levels) + torch.tensor([x1, y1, x1, y1])
        (described,) = seer.describe([photo], [_in_pixels(parts, grid, photo)])
        return l2(as_tensor(described.vectors).sum(dim=0, keepdim=True))[0]


class _Query(NamedTuple):
    """The maxima ``(C,)`` of a query's map, its height by width, and its vector ``(D,)``."""

    maxima: Tensor
    ratio: float
    vector: Tensor


def _map(seer: Describer, photo: Photo) -> tuple[Tensor, Grid]:
    """The map ``(C, h, w)`` that a photo is looked into by, and where its cells lie."""
    seen = seer.extractor.see([photo], seer.backbone)  # type: ignore[operator, union-attr]
    return seen.maps[0], seen.grids[0]


def _in_pixels(cells: Tensor, grid: Grid, photo: Photo) -> Regions:
    return Regions(clip(grid.to_pixels(cells.double()), photo.size).float(), photo.size)
