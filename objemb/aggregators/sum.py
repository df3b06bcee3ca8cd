"""The sum of region vectors: one row per image, as R-MAC has it (Tolias, Sicre and Jegou 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks
from objemb.aggregators.base import Aggregator
from objemb.ops.normalize import l2
from objemb.registry import plugin
from objemb.structures import RegionDescriptors, Regions


@plugin
class Sum(Aggregator):
    """``l2(sum of the regions' unit vectors)``, on the box that encloses them all: the whole image when it is one.

    Args:
        whole_image: Whether a region 0 that is the whole image joins the sum. R-MAC as published sums the grid only;
            some implementations add the whole image. It always counts where there is nothing else.
    """

    per_region = False

    def __init__(self, *, whole_image: bool = False) -> None:
        self.whole_image = checks.flag("whole_image", whole_image)

    def aggregate(self, described: RegionDescriptors) -> RegionDescriptors:
        """See :meth:`Aggregator.aggregate`. Boxes that a user gave are all summed: none of them is the whole image."""
        if len(described) == 0:
            return described
        regions, vectors = described.regions, described.vectors
        skip = len(vectors) > 1 and not self.whole_image and _is_whole(regions)
        total = l2(vectors[int(skip) :].sum(dim=0, keepdim=True))
        return RegionDescriptors(
            described.image, Regions(_enclosing(regions.boxes), regions.size), total, described.metadata
        )


def _is_whole(regions: Regions) -> bool:
    """Whether region 0 is the whole image."""
    return bool((regions.boxes[0] == Regions.whole(regions.size).boxes[0].to(regions.boxes.device)).all())


def _enclosing(boxes: Tensor) -> Tensor:
    """The smallest box ``(1, 4)`` around all."""
    return torch.cat([boxes[:, :2].amin(dim=0), boxes[:, 2:].amax(dim=0)])[None]
