"""The contract of a region source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from objemb.ops.grid import Grid
from objemb.registry import Plugin
from objemb.structures import Photo, Regions


class RegionSource(Plugin, ABC):
    """Says where to look in a photo."""

    kind = "regions"

    @abstractmethod
    def find(self, photos: Sequence[Photo], grids: Sequence[Grid]) -> list[Regions]:
        """Regions of a batch.

        Args:
            photos: The batch.
            grids: A grid per photo, for sources that lay rigid regions; others ignore it.

        Returns:
            Per photo ``Regions`` whose region 0 is the whole image, always.
        """

    def decode_side(self) -> int:
        """The longest side of a photo in pixels that is of use; 0 for a source that does not look at pixels."""
        return 0
