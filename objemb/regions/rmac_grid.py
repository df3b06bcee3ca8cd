"""The rigid grid of R-MAC (Tolias, Sicre and Jegou 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from objemb import checks
from objemb.ops.boxes import clip
from objemb.ops.grid import Grid
from objemb.ops.rmac import rmac_cells
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import Photo, Regions


@plugin
class RmacGrid(RegionSource):
    """The whole image, then the squares of the grid on the extractor's raster; see :func:`objemb.ops.rmac.rmac_cells`.

    Args:
        levels: Number of scales L.
        overlap: Share of a first-level square that its neighbour shall cover.
    """

    def __init__(self, *, levels: int = 3, overlap: float = 0.4) -> None:
        self.levels = checks.whole("levels", levels)
        self.overlap = checks.between("overlap", overlap, 0, 1)

    def find(self, photos: Sequence[Photo], grids: Sequence[Grid]) -> list[Regions]:
        """See :meth:`RegionSource.find`. Squares that reach beyond the photo with the last cells are cut off there."""
        return [self._lay(photo, grid) for photo, grid in zip(photos, grids, strict=True)]

    def _lay(self, photo: Photo, grid: Grid) -> Regions:
        cells = rmac_cells(grid.height, grid.width, self.levels, self.overlap).double()
        boxes = clip(grid.to_pixels(cells), photo.size).float()
        return Regions(torch.cat([Regions.whole(photo.size).boxes, boxes]), photo.size)
