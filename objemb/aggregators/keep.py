"""Every region is a row of the index: a hit says which box matched which."""

from __future__ import annotations

from objemb.aggregators.base import Aggregator
from objemb.registry import plugin
from objemb.structures import RegionDescriptors


@plugin
class Keep(Aggregator):
    """Returns the regions as they are."""

    per_region = True

    def aggregate(self, described: RegionDescriptors) -> RegionDescriptors:
        """See :meth:`Aggregator.aggregate`."""
        return described
