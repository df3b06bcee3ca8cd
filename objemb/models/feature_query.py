"""Boxes of a query, with the local features by which they are searched for."""

from __future__ import annotations

import numpy as np

from objemb.describers.base import FeatureDescriber
from objemb.structures import Photo, RegionFeatures, Regions


def describe_feature_boxes(describer: FeatureDescriber, photo: Photo, boxes: Regions, crop: str) -> RegionFeatures:
    """The features of each box, in their order.

    Args:
        describer: Computes the features.
        photo: The photo of the query.
        boxes: What in it is searched for.
        crop: As for :meth:`objemb.models.Model.query`. ``context``: as the describer has the features of a region in
            the database, which are those inside it. ``crop`` and ``scaled``: those of a picture that is cut out.
            ``whole``: those of the photo, for every box.
    """
    if crop in ("crop", "scaled"):
        return describer.describe_parts(photo, boxes, scaled=crop == "scaled")
    if crop != "whole":
        return describer.describe([photo], [boxes])[0]
    whole = describer.describe([photo], [Regions.whole(photo.size)])[0]
    features = np.tile(whole.of_region(0), len(boxes))
    members = np.stack([np.repeat(np.arange(len(boxes)), len(whole.of_region(0))), features], axis=1)
    return RegionFeatures(photo.id, boxes, whole.features, members, photo.metadata)
