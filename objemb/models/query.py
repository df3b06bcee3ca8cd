"""Boxes of a query become vectors that may be compared with the rows of an index; local features are those of
:mod:`objemb.models.feature_query`."""

from __future__ import annotations

import numpy as np
import torch

from objemb.aggregators.base import Aggregator
from objemb.describers.base import Describer
from objemb.ops.arrays import as_tensor
from objemb.ops.boxes import iou
from objemb.ops.images import cut_out
from objemb.structures import Photo, RegionDescriptors, Regions

#: How a box of a query is described; see :meth:`objemb.models.Model.query`.
CROPS = ("context", "crop", "scaled", "whole")
#: What becomes of a box: a region of its photo, or a picture that is cut out of it, which enters the network as large
#: as it would in its photo, or as large as a photo.
REGION, PART, ALONE = "region", "part", "alone"
#: What a query without boxes is searched for: the whole photo, what the model's detector finds in it, or both.
WHOLE, DETECTOR, BOTH = "whole", "detector", "both"
QUERY_BOXES = (WHOLE, DETECTOR, BOTH)
#: A box that was found and covers the photo by more than this (IoU of both) is the whole photo once more.
SAME_AS_WHOLE = 0.8


def least_cut_side(describer: Describer, aggregator: Aggregator, boxes: Regions, crop: str) -> float | None:
    """The longest side in original pixels of the least box that is cut out and enters the network as large as a photo.

    None where no box does: then the photo is decoded as it is for an index.
    """
    return None if crop == "whole" or _becomes(describer, aggregator, crop) != ALONE else least_longest_side(boxes)


def least_longest_side(boxes: Regions) -> float | None:
    """The longest side of the box whose longest side is the least; None of none."""
    return float((boxes.boxes[:, 2:] - boxes.boxes[:, :2]).max(axis=1).min()) if len(boxes) else None


def photo_and_objects(found: Regions) -> Regions:
    """The whole photo, which is region 0, and the boxes behind it that show less than all of it."""
    less = iou(as_tensor(found.boxes[:1]), as_tensor(found.boxes))[0] <= SAME_AS_WHOLE
    less[0] = True
    return found[less]


def describe_whole(describer: Describer, aggregator: Aggregator, photo: Photo) -> RegionDescriptors:
    """The one row for a whole photo: region 0 where regions are indexed, else the row of the photo itself."""
    whole = Regions.whole(photo.size)
    given = [whole] if aggregator.per_region and describer.queries_in_context(True) else None
    row = aggregator.aggregate(describer.describe([photo], given)[0]).vectors[:1]
    return RegionDescriptors(photo.id, whole, row, photo.metadata)


def describe_boxes(
    describer: Describer, aggregator: Aggregator, photo: Photo, boxes: Regions, crop: str
) -> RegionDescriptors:
    """One row per box, in the boxes' order and in the frame of the photo.

    Where the index has a row per region, a box is one region. Where an image is summed up to one row, a box is an image
    of its own: it is cut out, described with the method's own regions, and summed up in the same way. Unless ``crop``
    says otherwise, it enters the network at the scale of its photo, as the benchmarks of this field and the programs
    that the authors of R-MAC, deep image retrieval, GeM and regional attention released have it: the objects of the
    database were described at that scale, too.
    """
    if len(boxes) == 0:
        return RegionDescriptors(photo.id, boxes, torch.zeros(0, describer.dim), photo.metadata)
    if crop == "whole":
        whole = describe_whole(describer, aggregator, photo).vectors
        return RegionDescriptors(photo.id, boxes, whole.repeat(len(boxes), axis=0), photo.metadata)
    becomes = _becomes(describer, aggregator, crop)
    if becomes == REGION:
        return describer.describe([photo], [boxes])[0]
    vectors = []
    for box in boxes:
        cut = cut_out(photo, box)
        of_cut = describer.for_part(cut.size, photo.size) if becomes == PART else describer
        vectors.append(describe_whole(of_cut, aggregator, cut).vectors)
    return RegionDescriptors(photo.id, boxes, np.concatenate(vectors), photo.metadata)


def _becomes(describer: Describer, aggregator: Aggregator, crop: str) -> str:
    """One of :data:`REGION`, :data:`PART` and :data:`ALONE`."""
    if crop == "crop":
        return ALONE
    has_scale = describer.extractor is not None
    # a region has the scale of its photo; to be one among regions, a part that is cut out has to be described as one
    keeps_scale = crop == "context" or not has_scale or not aggregator.per_region
    if describer.queries_in_context(aggregator.per_region) and keeps_scale:
        return REGION
    return PART if has_scale else ALONE
