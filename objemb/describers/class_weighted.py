"""Class-weighted features: a vector for each probable class of an image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.describers.capabilities import ClassDescriber, ClassMaps
from objemb.extractors.base import Extractor, Features
from objemb.ops.boxes import touched_cells
from objemb.ops.heat import heat_boxes
from objemb.ops.tensors import as_tensor, l2
from objemb.ops.weighting import sparsity_weights
from objemb.pooling.crow import Crow
from objemb.registry import plugin
from objemb.structures import Photo, Regions


@plugin
class ClassWeighted(ClassDescriber):
    """A vector for each of the most probable classes, from class activation maps (Jimenez, Alvarez and
    Giro-i-Nieto, "Class-weighted convolutional features for visual instance search", BMVC 2017).

    With the map ``X`` and the weights ``w`` of the classification layer, the activation map of class c is
    ``CAM_c = sum over k of w_kc X_k``, clipped at 0 and divided by its maximum, and its vector is
    ``F_c = CW_k * sum over cells of X_k CAM_c``, with the channel weights ``CW`` of CroW. The vectors of the classes
    are summed by the aggregator ``sum``.

    The regions are the whole image, and one for each class, the most probable first: the box around the strongly active
    cells of its map, with the index of the class as label and its probability as score. The vector of the whole image,
    and of a given box, is the sum of the cells that it touches, times the channel weights there. This is how the paper
    describes queries, so a query box is always described in its photo, whatever the aggregator. (The authors' program
    also weights a query by the maps of the classes of its box; on generated scenes both are equally good.)

    Args:
        backbone: A network that keeps its classification layer: ``torchvision_cnn`` with ``classes: true``.
        extractor: An extractor with one map per photo: ``map``.
        classes: Number of most probable classes of each photo ("OfA" in the paper).
        fixed_classes: Classes to use for every photo instead ("OnA", if they are those of the query).
        threshold: A region encloses the cells whose activation is at least this share of the largest.

    Raises:
        TypeError: The backbone cannot keep a classification layer.
        ValueError: The layer was not kept, or a class does not exist.
    """

    not_exported = "whose boxes lie around components that SciPy finds"

    backbone: Backbone
    extractor: Extractor

    def __init__(
        self,
        *,
        backbone: Backbone,
        extractor: Extractor,
        classes: int = 64,
        fixed_classes: Sequence[int] | None = None,
        threshold: float = 0.2,
    ) -> None:
        super().__init__(backbone=backbone, extractor=extractor)
        known = backbone.class_layer().out_features
        self.classes = min(checks.whole("classes", classes), known)
        self.fixed_classes = None if fixed_classes is None else _checked_classes("fixed_classes", fixed_classes, known)
        self.threshold = checks.between("threshold", threshold, 0, 1)
        self._plain = Crow(spatial=False)

    @property
    def raw_dim(self) -> int:
        """See :attr:`Describer.raw_dim`."""
        return self.backbone.channels

    def queries_in_context(self, per_region: bool) -> bool:
        """See :meth:`Describer.queries_in_context`. A query is the unweighted sum over its box, as in the paper, even
        if the vectors of the classes are summed."""
        return True

    @torch.no_grad()
    def class_maps(self, photos: Sequence[Photo], classes: Sequence[Sequence[int]] | None = None) -> list[ClassMaps]:
        """See :meth:`ClassDescriber.class_maps`."""
        wanted: list[Sequence[int] | None] = [self.fixed_classes] * len(photos) if classes is None else list(classes)
        if len(wanted) != len(photos):
            raise ValueError(f"classes: expected a list per photo ({len(photos)}), found {len(wanted)}")
        known = self.backbone.class_layer().out_features
        wanted = [None if w is None else _checked_classes("classes", w, known) for w in wanted]
        if not photos:
            return []
        features = self.features(photos)
        active = [self._class_maps(features, i, w) for i, w in enumerate(wanted)]
        return [ClassMaps(a.classes.cpu(), a.scores.cpu(), a.maps.cpu(), a.grid) for a in active]

    @torch.no_grad()
    def describe_as(self, photo: Photo, boxes: Regions, classes: Sequence[int]) -> Tensor:
        """See :meth:`ClassDescriber.describe_as`."""
        picked = _checked_classes("classes", classes, self.backbone.class_layer().out_features)
        features = self.features([photo])
        (map_,), (grid,) = features.maps, features.grids
        weights = self._class_maps(features, 0, picked).maps
        sums = [weights.new_zeros(0, self.dim)]
        for x1, y1, x2, y2 in touched_cells(grid.to_cells(as_tensor(boxes.boxes)), (grid.height, grid.width)).tolist():
            vectors = _weighted(map_[:, y1:y2, x1:x2], weights[:, y1:y2, x1:x2])
            vectors = vectors if self.whitening is None else self.whitening(vectors)
            sums.append(vectors.sum(dim=0, keepdim=True))
        return l2(torch.cat(sums)).cpu()

    def _describe(self, photos: Sequence[Photo], given: Sequence[Regions | None]) -> tuple[list[Regions], Tensor]:
        """See :meth:`Describer._describe`."""
        features = self.features(photos)
        plain = [Regions.whole(p.size) if g is None else g for p, g in zip(photos, given, strict=True)]
        regions, vectors = [], []
        for i, of_plain in enumerate(features.pool(plain, self._plain)):
            described = plain[i]
            vectors.append(l2(of_plain.float()))
            if given[i] is None:
                active = self._class_maps(features, i, self.fixed_classes)
                described = Regions.cat([described, self._class_regions(active, photos[i])])
                vectors.append(_weighted(features.maps[i], active.maps))
            regions.append(described)
        return regions, torch.cat(vectors)

    def _class_maps(self, features: Features, number: int, classes: Sequence[int] | None) -> ClassMaps:
        """The class maps of one photo, on the device of its feature map."""
        layer, map_ = self.backbone.class_layer(), features.maps[number].float()
        scores = layer(map_.mean(dim=(1, 2))).softmax(dim=0)
        if classes is None:
            picked = scores.argsort(descending=True, stable=True)[: self.classes]
        else:
            picked = torch.tensor(list(classes), dtype=torch.int64, device=scores.device)
        maps = (layer.weight[picked] @ map_.flatten(1)).reshape(len(picked), *map_.shape[1:])
        return ClassMaps(picked, scores[picked], _scaled(maps), features.grids[number])

    def _class_regions(self, active: ClassMaps, photo: Photo) -> Regions:
        """A region for each class: the box around the cells in which it is active."""
        boxes = heat_boxes(active.maps, self.threshold, active.grid, photo.size)
        return Regions(boxes, photo.size, active.scores.cpu(), active.classes.cpu())


def _weighted(features: Tensor, maps: Tensor) -> Tensor:
    """Unit vectors ``F_c`` ``(n, C)`` of class activation maps ``(n, h, w)`` over a map ``(C, h, w)``."""
    features = features.float()
    return l2(maps.flatten(1) @ features.flatten(1).T * sparsity_weights(features))


def _scaled(maps: Tensor) -> Tensor:
    """Maps ``(n, h, w)``, clipped at 0 and divided by their maximum; zeros for a map without positive values."""
    return maps.clamp_min(0) / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)


def _checked_classes(name: str, classes: Sequence[int], known: int) -> tuple[int, ...]:
    for number in checks.several(name, classes):
        if checks.whole(name, number, least=0) >= known:
            raise ValueError(f"{name}: expected numbers below {known}, found {number}")
    return tuple(classes)
