"""The contract of an aggregator."""

from __future__ import annotations

from abc import ABC, abstractmethod

from objemb.structures import RegionDescriptors


class Aggregator(ABC):
    """Turns all region descriptors of an image into the ones that are indexed."""

    @abstractmethod
    def aggregate(self, described: RegionDescriptors) -> RegionDescriptors:
        """Rows for the index.

        Args:
            described: All regions of one image; region 0 is the whole image. Zero regions are allowed.

        Returns:
            At most as many regions, float32 unit vectors of the same length (zero vectors stay zero).
        """
