"""The contract of an aggregator."""

from __future__ import annotations

from abc import ABC, abstractmethod

from objemb.registry import Plugin
from objemb.structures import RegionDescriptors, Regions


class Aggregator(Plugin, ABC):
    """Turns all region descriptors of an image into the ones that are indexed.

    Attributes:
        per_region: Whether every region keeps a row of its own, so that a query box is one region too. Where an image
            is summed up instead, a query box is cut out and described as an image of its own.
    """

    kind = "aggregators"
    per_region: bool

    @abstractmethod
    def aggregate(self, described: RegionDescriptors) -> RegionDescriptors:
        """Rows for the index.

        Args:
            described: All regions of one image; region 0 is the whole image. Zero regions are allowed.

        Returns:
            At most as many regions, float32 unit vectors of the same length (zero vectors stay zero).
        """

    def first_counted(self, regions: Regions) -> int:
        """The first of an image's regions that a row is made of: 1 where region 0 is left out, else 0.

        What learns from the vectors of regions, such as a whitening, learns from those that count.
        """
        return 0
