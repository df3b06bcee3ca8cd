"""Regional deep feature aggregation: second-order pooling of the hulls of salient points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.describers._salient import SalientRegions
from objemb.describers._second_order import regularised_logm, second_moments, upper_triangle
from objemb.describers.base import Describer
from objemb.extractors.base import Extractor, Features
from objemb.layers.projection import PcaBasis
from objemb.ops.boxes import touched_cells
from objemb.ops.grid import Grid
from objemb.ops.opencv import best_detector
from objemb.ops.rectangles import inside
from objemb.ops.tensors import as_tensor, l2
from objemb.ops.weighting import saliency, sparsity_weights
from objemb.registry import plugin
from objemb.structures import Photo, Regions

ORDERS = (1, 2)


@plugin
class RegionalAggregation(Describer):
    """Salient regions with second-order vectors (Jeong, Choo, Seo and Cho, "Regional deep feature aggregation").

    ::

        photo ── backbone ── map f ──┬── saliency alpha (1) ── key points ── groups ── hulls R of their unions
                                     ├── channel weights beta (2)                               │
                                     └── U1^T (beta * f) (4) ── second order over each R, weighted by alpha (5)

    The similarity of two images is that of their best pair of regions (7), which the aggregator ``keep`` gives; the
    describer's whitening is (6), and the re-ranker ``region_expansion`` is (8). A given box is one region, which
    consists of the cells that it touches.

    Args:
        backbone: Computes the feature maps.
        extractor: An extractor with one map per photo: ``map``.
        order: 2, or 1 for the sum of weighted features (9), which has no fitted part.
        reduced: K', the dimension to which local features are reduced before their products are computed; the vectors
            have the length ``reduced * (reduced + 1) / 2``. For order 2 only.
        key_points: ``"hessian"``, ``"sift"``, ``"auto"`` for the first of them that the installed OpenCV has, or
            ``"none"`` to always use the most salient cells.
        max_points: Maximum number of key points; the most salient are kept.
        min_points: With fewer key points than this, the same number of the most salient cells is used instead.
        clusters: L, the number of groups of points; all unions of groups and the whole image are the ``2 ** L``
            regions.
        min_cells: Regions with fewer cells are dropped.

    Attributes:
        reduction: The fitted basis U1; None for order 1.
    """

    not_exported = "whose key points OpenCV finds and groups"

    backbone: Backbone
    extractor: Extractor

    def __init__(
        self,
        *,
        backbone: Backbone,
        extractor: Extractor,
        order: int = 2,
        reduced: int = 128,
        key_points: str = "auto",
        max_points: int = 4000,
        min_points: int = 300,
        clusters: int = 3,
        min_cells: int = 4,
    ) -> None:
        super().__init__(backbone=backbone, extractor=extractor)
        self.order = checks.one_of("order", order, ORDERS)
        if order == 2 and checks.whole("reduced", reduced) > backbone.channels:
            raise ValueError(
                f"reduced: expected at most the channels of the backbone ({backbone.channels}), found {reduced}"
            )
        detector = best_detector() if key_points == "auto" else key_points
        self.salient = SalientRegions(detector, max_points, min_points, clusters, min_cells)
        self.reduction = PcaBasis(backbone.channels, reduced) if order == 2 else None

    @staticmethod
    def stand_alone(settings: Mapping[str, object]) -> dict[str, object]:
        """Settings that mean the same on every machine: ``auto`` is replaced by the name of a detector."""
        detector = settings["key_points"]
        return {**settings, "key_points": best_detector() if detector == "auto" else detector}

    @property
    def raw_dim(self) -> int:
        """See :attr:`Describer.raw_dim`."""
        if self.reduction is None:
            return self.backbone.channels
        reduced = len(self.reduction.directions)
        return reduced * (reduced + 1) // 2

    def _describe(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> tuple[list[Regions], Tensor]:
        """See :meth:`Describer._describe`. Regions chosen by the method have their hulls as ``masks``."""
        features = self.features(photos)
        regions, cells = self._regions_of(photos, given, features)
        return regions, self._vectors(features.maps, cells)

    def _samples(self, part: str, photos: Sequence[Photo], given: Sequence[Regions | None]) -> list[Tensor]:
        """See :meth:`Describer._samples`: the first-order vectors of regions (3), on which U1 is fitted."""
        if part != "reduction":
            return super()._samples(part, photos, given)
        features = self.features(photos)
        _, cells = self._regions_of(photos, given, features)
        vectors = [l2(within.to(m) @ _local(m)) for m, within in zip(features.maps, cells, strict=True)]
        return [torch.zeros(0, self.backbone.channels), *vectors]

    def _regions_of(
        self, photos: Sequence[Photo], given: Sequence[Regions | None], features: Features
    ) -> tuple[list[Regions], list[Tensor]]:
        """The regions of each photo, and their cells, bool ``(N, h * w)``."""
        pairs = []
        for photo, boxes, map_, grid in zip(photos, given, features.maps, features.grids, strict=True):
            if boxes is None:
                pairs.append(self.salient.find(photo, saliency(map_).cpu(), grid, grid.shape(photo.size)))
            else:
                pairs.append((boxes, _cells_of_boxes(as_tensor(boxes.boxes), grid)))
        return [p[0] for p in pairs], [p[1] for p in pairs]

    def _vectors(self, maps: Sequence[Tensor], cells: Sequence[Tensor]) -> Tensor:
        """Unit vectors of the regions of all photos."""
        weights = [within.to(m) * saliency(m).flatten() for m, within in zip(maps, cells, strict=True)]
        if self.reduction is None:  # equation 9
            return l2(torch.cat([w @ _local(m) for m, w in zip(maps, weights, strict=True)]))
        # on the CPU, because not every accelerator has float64
        reduced = [self.reduction(_local(m)).cpu().double() for m in maps]  # equation 4
        moments = [second_moments(f, w.cpu().double()) for f, w in zip(reduced, weights, strict=True)]
        return l2(upper_triangle(regularised_logm(torch.cat(moments)))).float().to(weights[0].device)  # equation 5


def _local(features: Tensor) -> Tensor:
    """``beta * f`` of all cells, ``(h * w, C)`` from a map ``(C, h, w)``."""
    return (features * sparsity_weights(features)[:, None, None]).flatten(1).T


def _cells_of_boxes(boxes: Tensor, grid: Grid) -> Tensor:
    """The cells that boxes in original pixels touch, bool ``(N, h * w)``; at least one each."""
    size = (grid.height, grid.width)
    return inside(touched_cells(grid.to_cells(boxes), size), size).flatten(1)
