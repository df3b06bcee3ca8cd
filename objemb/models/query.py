"""Boxes of a query become vectors that may be compared with the rows of an index."""

from __future__ import annotations

import copy

import torch

from objemb.aggregators.base import Aggregator
from objemb.describers.base import Describer
from objemb.images.cut import cut_out
from objemb.structures import Photo, RegionDescriptors, Regions

#: How a box of a query is seen; see :meth:`objemb.models.Model.query`.
CROPS = ("context", "crop", "scaled", "whole")


def looked_at_alone(aggregator: Aggregator, boxes: Regions, crop: str) -> float | None:
    """The longest side in original pixels of the least box that enters the network at the size of a whole photo.

    None where no box does: then the pixels of the photo as it is indexed are what the boxes have to be seen in.
    """
    alone = crop == "crop" or (crop == "context" and not aggregator.per_region)
    if not alone or len(boxes) == 0:
        return None
    return float((boxes.boxes[:, 2:] - boxes.boxes[:, :2]).max(dim=1).values.min())


def describe_boxes(
    describer: Describer, aggregator: Aggregator, photo: Photo, boxes: Regions, crop: str
) -> RegionDescriptors:
    """One row per box, in the boxes' order and in the frame of the photo.

    Where the index has a row per region, a box is one region. Where an image is summed up to one row, a box is an image
    of its own: it is cut out, looked at with the method's own regions, and summed up in the same way.
    """
    if len(boxes) == 0:
        return RegionDescriptors(photo.id, boxes, torch.zeros(0, describer.dim), photo.metadata)
    if crop == "whole":
        whole = describe_boxes(describer, aggregator, photo, Regions.whole(photo.size), "context").vectors
        return RegionDescriptors(photo.id, boxes, whole.expand(len(boxes), -1), photo.metadata)
    if crop == "context" and aggregator.per_region:
        return describer.describe([photo], [boxes])[0]
    vectors = []
    for box in boxes:
        cut = cut_out(photo, box)
        seer = describer if crop != "scaled" else _scaled(describer, max(cut.size) / max(photo.size))
        given = [Regions.whole(cut.size)] if aggregator.per_region else None
        vectors.append(aggregator.aggregate(seer.describe([cut], given)[0]).vectors[:1])
    return RegionDescriptors(photo.id, boxes, torch.cat(vectors), photo.metadata)


def _scaled(describer: Describer, share: float) -> Describer:
    """The describer with its input size times the share of the photo that a crop is.

    So a crop enters the network at the scale that it would have had in its photo (the Oxford and Paris benchmarks crop
    their queries after scaling).
    """
    scales = getattr(describer, "scales", None)
    if scales is None:
        raise ValueError(f"crop: expected a method with scales for 'scaled', found {type(describer).__name__}")
    smaller = copy.copy(describer)  # shares the networks
    smaller.scales = tuple(s * share for s in scales)  # type: ignore[assignment]
    return smaller
