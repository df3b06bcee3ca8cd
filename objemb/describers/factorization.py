"""Deep feature factorization: the concepts of a photo are its regions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.describers.base import Describer
from objemb.extractors.base import Extractor, Features
from objemb.ops.boxes import touched_cells
from objemb.ops.factorize import Concepts, factorize
from objemb.ops.grid import Grid
from objemb.ops.heat import heat_boxes
from objemb.ops.nmf import Nmf
from objemb.ops.tensors import as_tensor, l2
from objemb.registry import plugin
from objemb.structures import Photo, Regions

SCORES = ("one", "mass")


@plugin
class Factorization(Describer):
    """The feature map of a photo is factorised into concepts, each of which is a region with a vector (DFF).

    The map is factorised into non-negative heat maps and basis vectors (:func:`~objemb.ops.factorize.factorize`). The
    normalised basis vector is the vector of a region, whose box encloses the largest connected part of its heat map
    (Collins and Susstrunk, "Deep feature factorization for content-based image retrieval and localization", ICIP 2019;
    the paper does not say how vectors are aggregated).

    A given box, and the whole image as region 0, is one concept: the cells that the box touches are factorised
    separately with rank 1. This gives their common direction, with each cell weighted by its activation.

    Args:
        backbone: Computes the feature maps; negative activations count as 0.
        extractor: An extractor with one map per photo: ``map``.
        rank: Maximum number of concepts per photo; fewer if the map has fewer cells or is not active.
        scores: Scores of concepts, for an aggregator that weights by them: ``"one"`` for equal scores, ``"mass"`` for
            the share of the photo's activation that a concept explains.
        threshold: A box encloses the cells with at least this share of the largest heat.
        init: Initialisation, see :class:`~objemb.ops.nmf.Nmf`, also for the next three.
        iterations: Maximum number of updates.
        tolerance: Relative change at which to stop.
        seed: Seed of a random initialisation.
        scales: Factors on the extractor's input size; the cells of all scales are factorised together.
    """

    not_exported = "whose factors are found by iteration"

    backbone: Backbone
    extractor: Extractor

    def __init__(
        self,
        *,
        backbone: Backbone,
        extractor: Extractor,
        rank: int = 4,
        scores: str = "one",
        threshold: float = 0.5,
        init: str = "random",
        iterations: int = 200,
        tolerance: float = 1e-4,
        seed: int = 0,
        scales: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__(backbone=backbone, extractor=extractor, scales=scales)
        self.scores = checks.one_of("scores", scores, SCORES)
        self.threshold = checks.between("threshold", threshold, 0, 1)
        self.nmf = Nmf(rank, init, iterations, tolerance, seed)

    @property
    def raw_dim(self) -> int:
        """See :attr:`Describer.raw_dim`."""
        return self.backbone.channels

    def _describe(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> tuple[list[Regions], Tensor]:
        """See :meth:`Describer._describe`. Given boxes keep their scores; that of the whole image is 1."""
        views = _views([self.features(photos, s) for s in self.scales])
        boxes = [Regions.whole(p.size) if g is None else g for p, g in zip(photos, given, strict=True)]
        single = self._single(views, boxes)
        open_ = [i for i, g in enumerate(given) if g is None]
        concepts = dict(zip(open_, factorize([[v.map for v in views[i]] for i in open_], self.nmf), strict=True))
        vectors = []
        for i, photo in enumerate(photos):
            vectors.append(single[i])
            if i in concepts:  # after the whole image
                vectors.append(concepts[i].basis)
                concept_regions = self._concept_regions(concepts[i], photo.size, views[i][0].grid)
                boxes[i] = Regions.cat([boxes[i], concept_regions])
        return boxes, l2(torch.cat(vectors).float())

    def _single(self, views: Sequence[Sequence[_View]], boxes: Sequence[Regions]) -> list[Tensor]:
        """For each photo ``(N, C)``: the concept of each box, zeros if none of its cells is active."""
        sets = [cells for of_photo, where in zip(views, boxes, strict=True) for cells in _cut(of_photo, where)]
        concepts = factorize(sets, dataclasses.replace(self.nmf, rank=1))
        vectors = views[0][0].map.new_zeros(len(sets), self.backbone.channels)
        for vector, concept in zip(vectors, concepts, strict=True):
            vector[:] = concept.basis.sum(dim=0)  # of one row, or of none
        return list(vectors.split([len(b) for b in boxes]))

    def _concept_regions(self, concepts: Concepts, size: tuple[int, int], grid: Grid) -> Regions:
        """Boxes of the concepts on the first map."""
        boxes = heat_boxes(concepts.heat[0], self.threshold, grid, size)
        mass = concepts.mass.float().cpu()
        scores = mass / mass.sum() if self.scores == "mass" else torch.ones(len(mass))
        return Regions(boxes, size, scores)


@dataclass(frozen=True, eq=False)
class _View:
    """A photo at one scale: its map ``(C, h, w)`` and the positions of the cells."""

    map: Tensor
    grid: Grid


def _views(features: Sequence[Features]) -> list[list[_View]]:
    """The views of each photo at all scales."""
    by_scale = [[_View(m, g) for m, g in zip(f.maps, f.grids, strict=True)] for f in features]
    return [list(of_photo) for of_photo in zip(*by_scale, strict=True)]


def _cut(views: Sequence[_View], regions: Regions) -> list[list[Tensor]]:
    """For each box the parts ``(C, h, w)`` of the views that it touches."""
    parts: list[list[Tensor]] = [[] for _ in range(len(regions))]
    for view in views:
        cells = touched_cells(view.grid.to_cells(as_tensor(regions.boxes)), (view.map.shape[1], view.map.shape[2]))
        for of_box, (x1, y1, x2, y2) in zip(parts, cells.tolist(), strict=True):
            of_box.append(view.map[:, y1:y2, x1:x2])
    return parts
