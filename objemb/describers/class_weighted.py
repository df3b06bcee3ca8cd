"""Class-weighted features: an image is looked at once for each thing that it may show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.describers.base import Describer, checked_given
from objemb.extractors.base import Extraction, Extractor
from objemb.layers.whitening import Whitening
from objemb.ops.arrays import as_tensor
from objemb.ops.boxes import touched_cells
from objemb.ops.grid import Grid
from objemb.ops.heat import heat_boxes
from objemb.ops.normalize import l2
from objemb.ops.weighting import sparsity_weights
from objemb.pooling.crow import Crow
from objemb.registry import plugin
from objemb.structures import Photo, RegionDescriptors, Regions


@dataclass(frozen=True, eq=False)
class ClassMaps:
    """Where on a photo some classes are seen.

    Attributes:
        classes: int64 ``(n,)``, rows of the network's layer of classes.
        scores: float32 ``(n,)``, their probabilities.
        maps: float32 ``(n, h, w)``, class activation maps, each scaled from 0 to 1; zeros for a class that is seen
            nowhere.
        grid: The raster of the maps.
    """

    classes: Tensor
    scores: Tensor
    maps: Tensor
    grid: Grid


@plugin
class ClassWeighted(Describer):
    """A vector per class that the network believes to see, from class activation maps (Jimenez, Alvarez and
    Giro-i-Nieto, "Class-weighted convolutional features for visual instance search", BMVC 2017).

    With the map ``X`` and the weights ``w`` of the linear layer of classes, the activation map of class c is
    ``CAM_c = sum over k of w_kc X_k``, divided by its maximum and cut off below 0, and its vector
    ``F_c = CW_k * sum over cells of X_k CAM_c``, where the channel weights ``CW`` are those of CroW. The vectors of the
    classes are summed by the aggregator ``sum``.

    The regions are the whole image, and one per class, the likeliest first: the box around what is hot on its map, with
    the number of the class as label and its probability as score. The whole image, and given boxes, are the plain sum
    of the cells that they touch, times the channel weights there, as the paper describes queries: a box that is
    searched for is described so in its photo, whatever the aggregator. (The program that the authors released weighs
    a query, too, by the maps of the classes of its box; on generated scenes both are worth the same.)

    Args:
        backbone: A network that keeps its layer of classes: ``torchvision_cnn`` with ``classes: true``.
        extractor: One map per photo: ``map``.
        classes: So many of the likeliest classes of each photo ("OfA" of the paper).
        fixed_classes: These classes for every photo instead ("OnA", where they are those of the query).
        threshold: A region is around the cells whose activation is at least this share of the largest.

    Attributes:
        whitening: Applied to the unit vectors, which are then brought to unit length again; None for none.

    Raises:
        TypeError: A backbone that is not known to have a layer of classes.
        ValueError: It was not kept, or there are no such classes.
    """

    whitening: Whitening | None

    def __init__(
        self,
        *,
        backbone: Backbone,
        extractor: Extractor,
        classes: int = 64,
        fixed_classes: Sequence[int] | None = None,
        threshold: float = 0.2,
    ) -> None:
        super().__init__()
        known = backbone.class_layer().out_features
        self.classes = min(checks.whole("classes", classes), known)
        self.fixed_classes = None if fixed_classes is None else _checked_classes("fixed_classes", fixed_classes, known)
        self.threshold = checks.between("threshold", threshold, 0, 1)
        self.backbone = backbone
        self.extractor = extractor
        self.whitening = None
        self._plain = Crow(spatial=False)
        self.eval()

    @property
    def dim(self) -> int:
        """Length of the vectors."""
        return self.backbone.channels if self.whitening is None else self.whitening.dim

    def decode_side(self) -> int | None:
        """See :meth:`Describer.decode_side`."""
        return self.extractor.decode_side()

    def sees_boxes_in_photo(self, per_region: bool) -> bool:
        """See :meth:`Describer.sees_boxes_in_photo`. A query is the plain sum under its box, as the paper has it, also
        where the vectors of the classes are summed up."""
        return True

    @torch.no_grad()
    def describe(
        self, photos: Sequence[Photo], regions: Sequence[Regions | None] | None = None
    ) -> list[RegionDescriptors]:
        """See :meth:`Describer.describe`."""
        given = checked_given(photos, regions)
        if not photos:
            return []
        seen = self._see(photos)
        asked = [Regions.whole(p.size) if g is None else g for p, g in zip(photos, given, strict=True)]
        described = []
        for i, plain in enumerate(seen.pool(asked, self._plain)):
            found, vectors = asked[i], l2(plain.float())
            if given[i] is None:
                maps = self._class_maps(seen, i, self.fixed_classes)
                found = Regions.cat([found, self._regions(maps, photos[i])])
                vectors = torch.cat([vectors, _weighted(seen.maps[i], maps.maps)])
            vectors = vectors if self.whitening is None else self.whitening(vectors)
            described.append(RegionDescriptors(photos[i].id, found, vectors.cpu(), photos[i].metadata))
        return described

    @torch.no_grad()
    def class_maps(self, photos: Sequence[Photo], classes: Sequence[Sequence[int]] | None = None) -> list[ClassMaps]:
        """Where classes are seen.

        Args:
            photos: A batch of any sizes.
            classes: Per photo the classes to look for; None for those that :meth:`describe` looks for, the likeliest
                first.

        Raises:
            ValueError: No such class, or not one list per photo.
        """
        wanted: list[Sequence[int] | None] = [self.fixed_classes] * len(photos) if classes is None else list(classes)
        if len(wanted) != len(photos):
            raise ValueError(f"classes: expected a list per photo ({len(photos)}), found {len(wanted)}")
        known = self.backbone.class_layer().out_features
        wanted = [None if w is None else _checked_classes("classes", w, known) for w in wanted]
        if not photos:
            return []
        seen = self._see(photos)
        found = [self._class_maps(seen, i, w) for i, w in enumerate(wanted)]
        return [ClassMaps(f.classes.cpu(), f.scores.cpu(), f.maps.cpu(), f.grid) for f in found]

    @torch.no_grad()
    def describe_as(self, photo: Photo, boxes: Regions, classes: Sequence[int]) -> Tensor:
        """Boxes of a photo, weighted by where some classes are seen: how the first hits and their query are compared.

        Args:
            photo: One photo.
            boxes: ``(n, 4)``; a box is every cell that it touches. The channel weights are those of its own cells.
            classes: Numbers of classes, those of the query.

        Returns:
            float32 ``(n, D)`` on the CPU, unit vectors: the sum over the classes of their whitened unit vectors.

        Raises:
            ValueError: No class, or no such class.
        """
        picked = _checked_classes("classes", classes, self.backbone.class_layer().out_features)
        seen = self._see([photo])
        maps, grid = self._class_maps(seen, 0, picked).maps, seen.grids[0]
        sums = [maps.new_zeros(0, self.dim)]
        for x1, y1, x2, y2 in touched_cells(grid.to_cells(as_tensor(boxes.boxes)), (grid.height, grid.width)).tolist():
            vectors = _weighted(seen.maps[0][:, y1:y2, x1:x2], maps[:, y1:y2, x1:x2])
            vectors = vectors if self.whitening is None else self.whitening(vectors)
            sums.append(vectors.sum(dim=0, keepdim=True))
        return l2(torch.cat(sums)).cpu()

    def _see(self, photos: Sequence[Photo]) -> Extraction:
        return self.extractor.see(photos, self.backbone)

    def _class_maps(self, seen: Extraction, number: int, classes: Sequence[int] | None) -> ClassMaps:
        """Those of one photo, on the device of its map."""
        layer, features = self.backbone.class_layer(), seen.maps[number].float()
        scores = layer(features.mean(dim=(1, 2))).softmax(dim=0)
        if classes is None:
            picked = scores.argsort(descending=True, stable=True)[: self.classes]
        else:
            picked = torch.tensor(list(classes), dtype=torch.int64, device=scores.device)
        maps = (layer.weight[picked] @ features.flatten(1)).reshape(len(picked), *features.shape[1:])
        return ClassMaps(picked, scores[picked], _scaled(maps), seen.grids[number])

    def _regions(self, found: ClassMaps, photo: Photo) -> Regions:
        boxes = heat_boxes(found.maps, self.threshold, found.grid, photo.size)
        return Regions(boxes, photo.size, found.scores.cpu(), found.classes.cpu())


def _weighted(features: Tensor, maps: Tensor) -> Tensor:
    """Unit vectors ``F_c`` ``(n, C)`` of class activation maps ``(n, h, w)`` over a map ``(C, h, w)``."""
    features = features.float()
    return l2(maps.flatten(1) @ features.flatten(1).T * sparsity_weights(features))


def _scaled(maps: Tensor) -> Tensor:
    """Each of the maps ``(n, h, w)`` over its maximum, what is below 0 cut off; zeros where nothing is above 0."""
    return maps.clamp_min(0) / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)


def _checked_classes(name: str, classes: Sequence[int], known: int) -> tuple[int, ...]:
    for number in checks.several(name, classes):
        if checks.whole(name, number, least=0) >= known:
            raise ValueError(f"{name}: expected numbers below {known}, found {number}")
    return tuple(classes)
