"""The rigid grid of R-MAC (Tolias, Sicre and Jegou 2015)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from objemb import checks
from objemb.ops.boxes import clip
from objemb.ops.grid import Grid, pixel_grid
from objemb.ops.rmac import rmac_cells, rmac_cells_of_pixels
from objemb.regions._program import GridRegions
from objemb.regions._rmac_layout import RmacLayout
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import Photo, Regions

RASTERS = ("cells", "pixels")


@plugin
class RmacGrid(RegionSource):
    """The whole image, then the squares of the grid.

    Args:
        levels: Number of scales L.
        overlap: Intended overlap of neighbouring squares at the first level, as a share of their area.
        raster: The grid is laid on the ``cells`` of the extractor's map, as in the R-MAC paper
            (:func:`objemb.ops.rmac.rmac_cells`), or on the ``pixels`` of the network's input, and rounded to cells, as
            in the code of deep image retrieval and regional attention
            (:func:`objemb.ops.rmac.rmac_cells_of_pixels`). With extractors without a map, cells are pixels.
    """

    def __init__(self, *, levels: int = 3, overlap: float = 0.4, raster: str = "cells") -> None:
        super().__init__()
        self.levels = checks.whole("levels", levels)
        self.overlap = checks.between("overlap", overlap, 0, 1)
        self.raster = checks.one_of("raster", raster, RASTERS)

    def find(self, photos: Sequence[Photo], grids: Sequence[Grid] | None = None) -> list[Regions]:
        """See :meth:`RegionSource.find`. Squares whose last cells extend beyond the photo are clipped to it."""
        grids = [pixel_grid(photo.size) for photo in photos] if grids is None else grids
        return [self._lay(photo, grid) for photo, grid in zip(photos, grids, strict=True)]

    def program(self, max_detections: int | None) -> GridRegions:
        """See :meth:`RegionSource.program`."""
        return GridRegions(RmacLayout(self.levels, self.overlap), self.raster == "pixels")

    def _lay(self, photo: Photo, grid: Grid) -> Regions:
        size = (grid.height, grid.width)
        if self.raster == "cells":
            cells = rmac_cells(*size, self.levels, self.overlap)
        else:
            cells = rmac_cells_of_pixels(grid.shape(photo.size), size, grid.stride, self.levels, self.overlap)
        boxes = clip(grid.to_pixels(cells.double()), photo.size).float()
        return Regions(np.concatenate([Regions.whole(photo.size).boxes, boxes.numpy()]), photo.size)
