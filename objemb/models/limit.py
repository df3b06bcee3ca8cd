"""Another number of boxes than a model was made for."""

from __future__ import annotations

import copy

from objemb.describers.base import Describer
from objemb.regions.detections import Detections


def limited(describer: Describer, max_regions: int) -> Describer:
    """The describer with at most ``max_regions`` detections per photo; one that detects nothing stays as it is.

    Networks are shared with the original, which does not change.
    """
    own = getattr(describer, "regions", None)
    if not isinstance(own, Detections):
        return describer
    other = copy.copy(describer)
    # an attribute of the copy alone, in front of the table of modules, which is the original's
    vars(other)["regions"] = Detections(
        detector=own.detector, min_score=own.min_score, nms_iou=own.nms_iou, max_regions=max_regions
    )
    return other
