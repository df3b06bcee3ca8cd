"""Patches of regular grids, from the whole image to small squares, for objects that no detector knows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from objemb import checks
from objemb.ops.grid import Grid
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import Photo, Regions


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
        boxes = [
            (width * column / side, height * row / side, width * (column + 1) / side, height * (row + 1) / side)
            for side in range(1, self.levels + 1)
            for row in range(side)
            for column in range(side)
        ]
        return Regions(np.array(boxes, np.float32), detections.size)
