"""Another number of boxes than a model was made for."""

from __future__ import annotations

import copy

from objemb.describers.base import Describer
from objemb.regions.detections import Detections
from objemb.regions.rpn_proposals import RpnProposals


def limited(describer: Describer, max_regions: int) -> Describer:
    """The describer with at most ``max_regions`` boxes of its detector per photo; one without any stays as it is.

    Networks are shared with the original, which does not change.
    """
    own = getattr(describer, "regions", None)
    if not isinstance(own, (Detections, RpnProposals)):
        return describer
    fewer = copy.copy(own)
    fewer.max_regions = max_regions
    other = copy.copy(describer)
    # an attribute of the copy alone, in front of the table of modules, which is the original's
    vars(other)["regions"] = fewer
    return other
