"""Feature maps of a batch of photos, and pooling of regions from them, for ``map`` and ``pyramid``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import roi_align

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.detectors.capabilities import DetectorPass, NetworkDetector
from objemb.extractors.base import masks_of
from objemb.layers.precision import computed
from objemb.ops.batches import group_equal
from objemb.ops.boxes import touched_cells
from objemb.ops.grid import Grid, map_grid
from objemb.ops.images import as_batch, resize
from objemb.ops.masks import coverage
from objemb.ops.tensors import as_tensor
from objemb.pooling.base import Pooling
from objemb.structures import Photo, Regions

SAMPLINGS = ("cells", "aligned")
#: Number of regions that are sampled at a time: each is a small map, and photos may have hundreds of regions.
BLOCK = 256
#: Replaces an area of zero in a division of zero.
TINY = 1e-12


@dataclass(frozen=True)
class Sampling:
    """How the values inside a box are read from a map.

    Args:
        kind: ``"cells"`` takes every cell that the box touches, as R-MAC does; ``"aligned"`` interpolates
            ``samples x samples`` values inside the box (RoI align), which suits boxes of few cells better.
        samples: Samples per direction for ``aligned``.
        masks: Whether the extra ``masks`` of regions weights the cells or samples.
    """

    kind: str
    samples: int
    masks: bool

    def __post_init__(self) -> None:
        checks.one_of("sampling", self.kind, SAMPLINGS)
        checks.whole("samples", self.samples)
        checks.flag("masks", self.masks)

    def pool(self, maps: Tensor, numbers: Tensor, boxes: Tensor, weights: Tensor | None, pooling: Pooling) -> Tensor:
        """Vectors ``(M, D)`` of ``boxes`` ``(M, 4)`` in cells, each on the map with the index in ``numbers``
        ``(M,)``."""
        if self.kind == "aligned":
            return self._pool_aligned(maps, torch.cat([numbers[:, None].to(boxes), boxes], dim=1), weights, pooling)
        size = (maps.shape[2], maps.shape[3])
        cells = torch.cat([numbers[:, None], touched_cells(boxes, size)], dim=1)
        if weights is None:
            return pooling.rectangles(maps, cells)
        return _pool_weighted(maps, cells, weights, pooling)

    def _pool_aligned(self, maps: Tensor, rois: Tensor, weights: Tensor | None, pooling: Pooling) -> Tensor:
        pooled = []
        for start in range(0, max(len(rois), 1), BLOCK):
            block = slice(start, start + BLOCK)
            sampled = roi_align(maps, rois[block].to(maps), self.samples, sampling_ratio=2, aligned=True)
            pooled.append(pooling(sampled, None if weights is None else weights[block].to(maps.device)))
        return torch.cat(pooled)

    def weights(self, masks: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
        """Masks over ``boxes`` in cells as weights of the cells of a map of ``size``, or of the samples.

        A weight is the share of the *box's part* of a cell that is under the mask, so that a full mask changes nothing.
        """
        if self.kind == "aligned":
            size = (self.samples, self.samples)
            boxes = boxes.new_tensor([[0.0, 0.0, self.samples, self.samples]]).expand(len(boxes), 4)
        box = coverage(masks.new_ones(len(masks), 1, 1), boxes, size)
        return _never_empty((coverage(masks, boxes, size) / box.clamp_min(TINY)).clamp_max(1))


def map_grids(photos: Sequence[Photo], shapes: Sequence[tuple[int, int]], backbone: Backbone) -> list[Grid]:
    """The positions of the cells of the maps of photos, whose network inputs have ``shapes`` (height, width)."""
    return [
        map_grid(backbone.map_size(shape), shape, photo.size, backbone.stride, backbone.offset)
        for photo, shape in zip(photos, shapes, strict=True)
    ]


class FeatureMaps:
    """The maps of some photos, from one forward pass for each input shape.

    Args:
        photos: The photos.
        shapes: ``(height, width)`` of the network's input for each photo.
        backbone: The network.
        detector: The detector whose map the backbone gives, if its other maps are needed as well.

    Attributes:
        grids: The grid of each photo.
        passes: Of the detector: numbers of photos, and all maps.

    Raises:
        ValueError: The size of a map differs from ``backbone.map_size``.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        shapes: Sequence[tuple[int, int]],
        backbone: Backbone,
        detector: NetworkDetector | None = None,
    ) -> None:
        self.grids = map_grids(photos, shapes, backbone)
        self.passes: list[tuple[list[int], DetectorPass]] = []
        self._groups = group_equal(shapes)
        self._maps = []
        for group in self._groups:
            images = [resize(as_tensor(photos[i].pixels), shapes[i]) for i in group]
            if detector is None or backbone.level is None:
                self._maps.append(backbone.feature_maps(images))
            else:
                batch = detector.normalised(as_batch(images, backbone.device))
                levels = computed(backbone.device, detector.features, batch)
                self.passes.append((group, DetectorPass(batch, levels)))
                self._maps.append(levels[backbone.level])
        for group, maps in zip(self._groups, self._maps, strict=True):
            expected, found = backbone.map_size(shapes[group[0]]), tuple(maps.shape[2:])
            if found != expected:
                raise ValueError(
                    f"backbone: expected a map of (height, width) {expected} for an input of {shapes[group[0]]}, as "
                    f"its stride {backbone.stride} and surplus {backbone.surplus} say, found {found}"
                )

    def by_photo(self) -> list[Tensor]:
        """The map ``(C, h, w)`` of each photo, as a view."""
        views = {
            i: one
            for group, maps in zip(self._groups, self._maps, strict=True)
            for i, one in zip(group, maps, strict=True)
        }
        return [views[i] for i in range(len(views))]

    def pool(self, regions: Sequence[Regions], pooling: Pooling, sampling: Sampling) -> list[Tensor]:
        """The vectors ``(N, D)`` of the regions of each photo; see :meth:`Features.pool`."""
        pooled: dict[int, Tensor] = {}
        for group, maps in zip(self._groups, self._maps, strict=True):
            counts = [len(regions[i]) for i in group]
            numbers = torch.arange(len(group)).repeat_interleave(torch.tensor(counts))
            boxes = torch.cat([self._in_cells(i, regions[i]) for i in group])
            weights = self._weights(group, regions, sampling) if sampling.masks else None
            vectors = sampling.pool(maps, numbers, boxes, weights, pooling)
            pooled.update(zip(group, vectors.split(counts), strict=True))
        return [pooled[i] for i in range(len(regions))]

    def local_features(self, regions: Sequence[Regions], pooling: Pooling) -> list[Tensor]:
        """The cells ``(n, C)`` in the regions of each photo, each once; see :meth:`Features.local_features`."""
        features = []
        for i, (one, of_photo) in enumerate(zip(self.by_photo(), regions, strict=True)):
            cells = touched_cells(self._in_cells(i, of_photo), (one.shape[1], one.shape[2]))
            counted = pooling.counted(one[None], F.pad(cells, (1, 0)))
            features.append(one[:, counted.any(dim=0)].T)
        return features

    def _in_cells(self, photo: int, regions: Regions) -> Tensor:
        return self.grids[photo].to_cells(as_tensor(regions.boxes))

    def _weights(self, group: Sequence[int], regions: Sequence[Regions], sampling: Sampling) -> Tensor | None:
        """Weights of all regions of a group, or None if none of its photos has masks."""
        masks = [masks_of(regions[i]) for i in group]
        if all(m is None for m in masks):
            return None
        parts = []
        for i, of_photo in zip(group, masks, strict=True):
            full = torch.ones(len(regions[i]), 1, 1) if of_photo is None else of_photo
            raster = (self.grids[i].height, self.grids[i].width)
            parts.append(sampling.weights(full, self._in_cells(i, regions[i]), raster))
        return torch.cat(parts)


def _pool_weighted(maps: Tensor, cells: Tensor, weights: Tensor, pooling: Pooling) -> Tensor:
    """Pool rectangles with weighted cells, one after another, because weighted copies of all maps would need far more
    memory."""
    pooled = [
        pooling(maps[n : n + 1, :, y1:y2, x1:x2], weights[i : i + 1, y1:y2, x1:x2].to(maps.device))
        for i, (n, x1, y1, x2, y2) in enumerate(cells.tolist())
    ]
    return torch.cat(pooled) if pooled else maps.new_zeros(0, pooling.length(maps.shape[1]))


def _never_empty(weights: Tensor) -> Tensor:
    """Weights in which an empty mask, or that of a box without area, is replaced by ones."""
    empty = (weights == 0).flatten(1).all(dim=1)
    return weights.masked_fill(empty[:, None, None], 1.0)
