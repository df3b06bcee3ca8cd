"""Patches of regular grids, from the whole image to small squares, for objects that no detector knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from objemb import checks
from objemb.ops.grid import Grid
from objemb.regions._program import PatchRegions
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import Photo, Regions
from objemb.types import Int64Array


@plugin
class Patchify(RegionSource):
    """The whole image, then its patches: ``l x l`` equal boxes, without overlap, for each level ``l`` from 2 on.

    With four levels a photo has 1 + 4 + 9 + 16 = 30 regions, those of Patchify (arXiv 2512.12610, WACV 2026), where
    each is cut out and described on its own and the best match of any of them counts.

    Args:
        levels: Boxes on a side of the finest grid; 1 leaves the whole image alone.
    """

    def __init__(self, *, levels: int = 4) -> None:
        super().__init__()
        self.levels = checks.whole("levels", levels)

    def find(self, photos: Sequence[Photo], grids: Sequence[Grid] | None = None) -> list[Regions]:
        """See :meth:`RegionSource.find`. The grids lie on pixels, so that ``grids`` is not used."""
        return [self.select(Regions.empty(photo.size)) for photo in photos]

    def select(self, detections: Regions) -> Regions:
        """See :meth:`RegionSource.select`: the patches depend on the size of the photo alone."""
        height, width = detections.size
        whole = Regions.whole(detections.size).boxes
        boxes = self._patches[:, :4] * np.array([width, height, width, height]) / self._patches[:, 4:]
        return Regions(np.concatenate([whole, boxes.astype(np.float32)]), detections.size)

    def program(self, max_detections: int | None) -> PatchRegions:
        """See :meth:`RegionSource.program`."""
        return PatchRegions(torch.from_numpy(self._patches))

    @property
    def _patches(self) -> Int64Array:
        """int64 ``(N, 5)``: see :class:`objemb.regions._program.PatchRegions`."""
        patches = [
            (column, row, column + 1, row + 1, side)
            for side in range(2, self.levels + 1)
            for row in range(side)
            for column in range(side)
        ]
        return np.array(patches, np.int64).reshape(-1, 5)
