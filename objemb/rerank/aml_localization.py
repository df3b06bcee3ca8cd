"""Hits ranked by the box that is most similar to the query: approximate max-pooling localisation."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from objemb import checks
from objemb.describers.base import Describer
from objemb.extractors.map import Map
from objemb.ops.boxes import clip
from objemb.ops.grid import Grid
from objemb.ops.rmac import rmac_cells
from objemb.ops.tensors import as_tensor, l2
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

    In the feature map of each hit, the box is found whose maximum activations are most similar to those of the query.
    The hit is then scored by the similarity of the describer's vector of that box, over an R-MAC grid in the box or
    over the box only, to that of the query. Finally, hits are ranked by the mean of the query and of the vectors of the
    best boxes. As in the paper, the box is found in and described from the same map, and the query is cut out at the
    scale of its photo. The paper's quantisation of activations, which saved storage, is left out.

    Args:
        top: Number of hits per query that are re-ranked; the paper's 1,000.
        mixed: Number of vectors of the best boxes averaged with the query; the paper's 5; 0 for no expansion.
        vector: ``rmac``: the sum over the grid laid in the box; ``mac``: the box alone.
        levels: Levels of that grid.
        size: Longest side of the photos of queries and hits at the network's input, in pixels; None for that of the
            describer's own extractor, a ``map``.
        step: Cells between corners of the exhaustive search, see :class:`objemb.rerank._box_search.BoxSearch`.
        stretch: Largest factor between the aspect ratios of box and query.
        power: Power of the approximate maximum.
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
            ValueError: Photos cannot be opened; or the describer has no backbone, or does not compute one map per photo
                and ``size`` is not given.
        """
        if not any(len(result) for result in search.results):
            return search
        describer = self._with_maps(search.needed_describer())
        results = [self._located(search, describer, number) for number in range(len(search.results))]
        return replace(search, results=tuple(results))

    def _with_maps(self, describer: Describer) -> Describer:
        """The describer with the extractor that computes the maps of queries and hits."""
        describer.needed_backbone("aml_localization")
        if self.extractor is not None:
            return describer.with_extractor(self.extractor)
        if describer.extractor is None or not describer.extractor.one_map:
            found = type(describer.extractor).__name__
            raise ValueError(f"aml_localization: size: expected the side of maps in pixels, found none and {found}")
        return describer

    def _located(self, search: Search, describer: Describer, number: int) -> SearchResult:
        result = search.results[number]
        first = result.hits[: self.top]
        if not first:
            return result
        photo = search.query_photo(number)
        queries = {box: self._query(describer, photo, box) for box in dict.fromkeys(h.query_box for h in first)}
        located = [
            self._in_hit(describer, opened, hit, queries[hit.query_box]) for hit, opened in with_photos(search, first)
        ]
        mean = l2(torch.stack([q.vector for q in queries.values()]).mean(dim=0, keepdim=True))[0]
        return expanded(result, [hit for hit, _ in located], [v for _, v in located], mean, self.mixed)

    def _query(self, describer: Describer, photo: Photo, box: tuple[float, ...]) -> _Query:
        """The query: a part of a photo, cut out at the scale of its photo."""
        cut = photo.part(Regions(torch.tensor([box]), photo.size))
        describer = describer.for_part(cut.size, photo.size)
        map_, grid = _map(describer, cut)
        maxima = map_.flatten(1).amax(dim=1).float().cpu()
        whole = torch.tensor([0, 0, grid.width, grid.height])
        return _Query(maxima, cut.size[0] / cut.size[1], self._vector(describer, cut, grid, whole))

    def _in_hit(self, describer: Describer, photo: Photo, hit: Match, query: _Query) -> tuple[Match, Tensor]:
        """A hit with its new box, and the vector of that box."""
        map_, grid = _map(describer, photo)
        cells, _ = self.boxes.best(map_.float().cpu(), query.maxima, query.ratio)
        (box,) = _in_pixels(cells[None], grid, photo).boxes.tolist()
        return moved(hit, box), self._vector(describer, photo, grid, cells)

    def _vector(self, describer: Describer, photo: Photo, grid: Grid, cells: Tensor) -> Tensor:
        """The unit vector of a box of cells ``(4,)``, over the squares of R-MAC in it or over the box only.

        Boxes of whole cells are pooled from exactly these cells, so that the grid is laid as if the box were a map.
        """
        x1, y1, x2, y2 = cells.tolist()
        parts = cells[None]
        if self.vector == "rmac":
            parts = rmac_cells(y2 - y1, x2 - x1, self.levels) + torch.tensor([x1, y1, x1, y1])
        (described,) = describer.describe([photo], [_in_pixels(parts, grid, photo)])
        return l2(as_tensor(described.vectors).sum(dim=0, keepdim=True))[0]


class _Query(NamedTuple):
    """The maxima ``(C,)`` of a query's map, its height over width, and its vector ``(D,)``."""

    maxima: Tensor
    ratio: float
    vector: Tensor


def _map(describer: Describer, photo: Photo) -> tuple[Tensor, Grid]:
    """The map ``(C, h, w)`` of a photo, and the positions of its cells."""
    features = describer.features([photo])
    return features.maps[0], features.grids[0]


def _in_pixels(cells: Tensor, grid: Grid, photo: Photo) -> Regions:
    return Regions(clip(grid.to_pixels(cells.double()), photo.size).float(), photo.size)
