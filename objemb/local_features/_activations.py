"""The strongest activations of feature maps over an image pyramid, which ``dense`` and ``attentive`` have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from objemb import checks
from objemb.backbones.base import Backbone
from objemb.detectors.capabilities import DetectorPass, NetworkDetector
from objemb.layers.precision import computed
from objemb.layers.projection import Projection
from objemb.local_features.base import LocalExtractor
from objemb.ops.batches import batched, group_equal
from objemb.ops.grid import Grid, map_grid
from objemb.ops.images import input_size, resize
from objemb.ops.tensors import as_tensor, l2
from objemb.structures import LocalFeatures, Photo

#: Factors on the size of a photo: two octaves down and one up, in steps of half an octave (Noh et al., ICCV 2017).
SCALES = tuple(2.0 ** (step / 2) for step in range(2, -5, -1))
#: Maximum number of input pixels in a forward pass.
PIXELS = 1 << 22
#: Arguments of :class:`~objemb.structures.LocalFeatures` for cells of a map.
_Cells = dict[str, Tensor]
#: Numbers of photos, their maps ``(B, C, h, w)``, and the positions of the cells of each.
_Maps = tuple[tuple[int, ...], Tensor, list[Grid]]


@dataclass(frozen=True, eq=False)
class Activations:
    """The strongest activations of a photo.

    Attributes:
        vectors: float32 ``(n, C)``, the output of the network.
        cells: ``points``, ``scales``, ``sides`` and ``strengths`` of :class:`~objemb.structures.LocalFeatures`.
    """

    vectors: Tensor
    cells: _Cells

    def above(self, threshold: float) -> Activations:
        """Select those with at least this strength."""
        strong = self.cells["strengths"] >= threshold
        return Activations(self.vectors[strong], {name: column[strong] for name, column in self.cells.items()})

    def strongest(self, count: int) -> Activations:
        """Select at most ``count``, the strongest first; equally strong ones stay in order."""
        order = self.cells["strengths"].argsort(descending=True, stable=True)[:count]
        return Activations(self.vectors[order], {name: column[order] for name, column in self.cells.items()})


class ActivationExtractor(LocalExtractor):
    """Local features that are cells of feature maps of a photo at several scales.

    A plug-in defines the strength of cells, and how maps are processed before vectors are read from them.

    Args:
        backbone: Computes the maps; its setting ``layer`` chooses the stage.
        size: Longest side of a photo in pixels at scale 1. None for the size that a detector chooses, if the backbone
            is one of its maps (``detector_trunk``).
        scales: Factors on that size.
        count: Maximum number of features of a photo, over all scales.
        enlarge: Whether smaller photos are enlarged to that size; a detector always enlarges them.
        dim: Length of the vectors after PCA; None for no PCA.
        power: Exponent of the variances in the PCA: 0.5 for whitening, 0 for a rotation only.
        unit: Whether the vectors are normalised to unit length at the end.
    """

    backbone: Backbone

    def __init__(
        self,
        *,
        backbone: Backbone,
        size: float | None,
        scales: Sequence[float],
        count: int,
        enlarge: bool,
        dim: int | None,
        power: float,
        unit: bool,
    ) -> None:
        super().__init__(size=size, count=count, backbone=backbone)
        self.scales = tuple(checks.positive("scales", s) for s in checks.several("scales", scales))
        self.enlarge = checks.flag("enlarge", enlarge)
        self.unit = checks.flag("unit", unit)
        if size is None and self.shared_detector() is None:
            raise ValueError(
                "size: expected a number of pixels, or null for a backbone that is a map of a detector "
                f"(detector_trunk), found null for {backbone.registry_name or type(backbone).__name__}"
            )
        self.projection = None if dim is None else Projection(backbone.channels, dim, power)

    @property
    def dim(self) -> int:
        """See :attr:`LocalExtractor.dim`."""
        return self.backbone.channels if self.projection is None else self.projection.dim

    def decode_side(self) -> int | None:
        """See :meth:`LocalExtractor.decode_side`."""
        detector = self.shared_detector()
        side = self.side_of((1, 1)) if detector is None else detector.decode_side()
        return math.ceil(side * max(self.scales))

    def shared_detector(self) -> NetworkDetector | None:
        """See :meth:`LocalExtractor.shared_detector`: the backbone's detector, if photos have the size it chooses."""
        detector = self.backbone.source_detector()
        return detector if self.size is None and isinstance(detector, NetworkDetector) else None

    @abstractmethod
    def strengths(self, maps: Tensor) -> Tensor:
        """The strengths ``(B, h, w)`` of the cells of maps ``(B, C, h, w)``."""

    def prepared(self, maps: Tensor) -> Tensor:
        """Process maps before vectors are read from them, ``(B, C, h, w)``; unchanged by default."""
        return maps

    def normalised(self, vectors: Tensor) -> Tensor:
        """Process the vectors ``(n, C)`` of cells before the PCA; unchanged by default."""
        return vectors

    def activations(self, photos: Sequence[Photo], seen: DetectorPass | None = None) -> list[Activations]:
        """For each photo, its strongest activations over all scales, on the device of the network.

        Args:
            photos: The photos.
            seen: As for :meth:`LocalExtractor.extract`, with the map of scale 1. Other scales are computed here.
        """
        parts: list[list[Activations]] = [[] for _ in photos]
        for scale in self.scales:
            for numbers, maps, grids in self.maps(photos, scale, seen if scale == 1 else None):
                strengths = self.strengths(maps)
                ready = self.prepared(maps)
                for n, of_photo, strong, grid in zip(numbers, ready, strengths, grids, strict=True):
                    parts[n].append(self._read(of_photo, strong, grid, photos[n].size))
        return [_joined(of_photo).strongest(self.count) for of_photo in parts]

    def maps(self, photos: Sequence[Photo], scale: float, seen: DetectorPass | None = None) -> Iterator[_Maps]:
        """Feature maps at one scale: numbers of photos, their maps ``(B, C, h, w)``, and the positions of the cells.

        Photos of equal input shape share a forward pass, up to :data:`PIXELS` in total.

        Args:
            photos: The photos.
            scale: Factor on the size.
            seen: As for :meth:`LocalExtractor.extract`, at scale 1.
        """
        net = self.backbone
        detector = self.shared_detector()
        if scale == 1 and detector is not None and net.level is not None:
            yield from self._detector_maps(photos, detector, net.level, seen)
            return
        shapes = [input_size(p.size, self._target(p) * scale, "longest", net.multiple, net.smallest) for p in photos]
        for group in group_equal(shapes):
            shape = shapes[group[0]]
            for numbers in batched(group, max(1, PIXELS // (shape[0] * shape[1]))):
                maps = net.feature_maps([resize(as_tensor(photos[n].pixels), shape) for n in numbers])
                raster = (maps.shape[2], maps.shape[3])
                yield numbers, maps, [map_grid(raster, shape, photos[n].size, net.stride, net.offset) for n in numbers]

    def _detector_maps(
        self, photos: Sequence[Photo], detector: NetworkDetector, level: str, seen: DetectorPass | None
    ) -> Iterator[_Maps]:
        """As :meth:`maps`, photo by photo, for the input of a detector: resized by it, and padded at the right and the
        bottom. Cells of the padding are left out."""
        net = self.backbone
        for numbers in [list(range(len(photos)))] if seen is not None else detector.groups(photos):
            if seen is None:
                batch = detector.preprocess([photos[n] for n in numbers])
                of_batch = computed(batch.tensors.device, detector.maps, batch, (level,))[level]
            else:
                batch, of_batch = seen.batch, seen.maps[level]
            for n, map_, shape in zip(numbers, of_batch, batch.image_sizes, strict=True):
                height, width = (max(1, math.ceil((side - net.offset) / net.stride - 0.5)) for side in shape)
                own = map_[None, :, :height, :width]
                raster = (own.shape[2], own.shape[3])
                yield (n,), own, [map_grid(raster, shape, photos[n].size, net.stride, net.offset)]

    def _extract(self, photos: Sequence[Photo], seen: DetectorPass | None) -> list[LocalFeatures]:
        features = []
        for photo, chosen in zip(photos, self.activations(photos, seen), strict=True):
            vectors = self.normalised(chosen.vectors)
            vectors = vectors if self.projection is None else self.projection(vectors)
            features.append(LocalFeatures(photo.size, vectors=l2(vectors) if self.unit else vectors, **chosen.cells))
        return features

    def _samples(self, part: str, photos: Sequence[Photo]) -> list[Tensor]:
        """See :meth:`LocalExtractor._samples`. The PCA is fitted on the selected activations."""
        if part != "projection":
            return super()._samples(part, photos)
        return [self.normalised(chosen.vectors) for chosen in self.activations(photos)]

    def _target(self, photo: Photo) -> float:
        side = self.side_of((photo.pixels.shape[1], photo.pixels.shape[2]))
        return side if self.enlarge or self.size is None else min(side, max(photo.size))

    def _read(self, of_photo: Tensor, strengths: Tensor, grid: Grid, size: tuple[int, int]) -> Activations:
        """The strongest cells of a map ``(C, h, w)``."""
        flat = strengths.flatten()
        chosen = flat.argsort(descending=True, stable=True)[: self.count]
        rows, columns = chosen // grid.width, chosen % grid.width
        down, across = grid.cell
        x, y = grid.offset[1] + (columns + 0.5) * across, grid.offset[0] + (rows + 0.5) * down
        original = math.sqrt(down * across) / grid.stride  # original pixels per pixel of the input
        alike = torch.ones_like(x)
        return Activations(
            of_photo.flatten(1)[:, chosen].T.float(),
            {
                "points": torch.stack([x.clamp(0, size[1]), y.clamp(0, size[0])], dim=1),
                "scales": alike / original,
                "sides": alike * (self._receptive_side * original),
                "strengths": flat[chosen].float(),
            },
        )

    @cached_property
    def _receptive_side(self) -> float:
        return self.backbone.receptive_side()


def _joined(parts: Sequence[Activations]) -> Activations:
    cells = {name: torch.cat([part.cells[name] for part in parts]) for name in parts[0].cells}
    return Activations(torch.cat([part.vectors for part in parts]), cells)
