"""The whole image as the only region, for global descriptors such as MAC, SPoC and GeM."""

from __future__ import annotations

from collections.abc import Sequence

from objemb.ops.grid import Grid
from objemb.regions._program import NoRegions
from objemb.regions.base import RegionSource
from objemb.registry import plugin
from objemb.structures import Photo, Regions


@plugin
class WholeImage(RegionSource):
    """One region per photo."""

    def find(self, photos: Sequence[Photo], grids: Sequence[Grid] | None = None) -> list[Regions]:
        """See :meth:`RegionSource.find`."""
        return [Regions.whole(photo.size) for photo in photos]

    def program(self, max_detections: int | None) -> NoRegions:
        """See :meth:`RegionSource.program`."""
        return NoRegions()
