"""One row of the index for every region, so that a hit has the pair of boxes that matched."""

from __future__ import annotations

from objemb.aggregators.base import Aggregator
from objemb.registry import plugin
from objemb.structures import RegionDescriptors


@plugin
class Keep(Aggregator):
    """Returns the regions unchanged."""

    per_region = True

    def aggregate(self, described: RegionDescriptors) -> RegionDescriptors:
        """See :meth:`Aggregator.aggregate`."""
        return described
