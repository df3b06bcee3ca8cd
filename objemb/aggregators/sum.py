"""The sum of region vectors: one row per image, as in R-MAC (Tolias, Sicre and Jegou 2015)."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks
from objemb.aggregators.base import Aggregator
from objemb.ops.rmac import first_summed, summed_rows
from objemb.ops.tensors import as_tensor, l2
from objemb.registry import plugin
from objemb.structures import RegionDescriptors, Regions


@plugin
class Sum(Aggregator):
    """``l2(sum of the regions' unit vectors)``, with the box that encloses all regions.

    Args:
        whole_image: Whether a region 0 that is the whole image is part of the sum. The R-MAC paper sums only the grid;
            some implementations add the whole image. It is always used if it is the only region.
        weighted: Whether regions are weighted by their scores: the attention of a describer, or the scores of a
            detector.
    """

    per_region = False

    def __init__(self, *, whole_image: bool = False, weighted: bool = False) -> None:
        super().__init__()
        self.whole_image = checks.flag("whole_image", whole_image)
        self.weighted = checks.flag("weighted", weighted)

    def aggregate(self, described: RegionDescriptors) -> RegionDescriptors:
        """See :meth:`Aggregator.aggregate`. Boxes that a user gave are all summed: none of them is the whole image."""
        if len(described) == 0:
            return described
        regions, vectors = described.regions, as_tensor(described.vectors)
        counted = vectors * as_tensor(regions.scores)[:, None] if self.weighted else vectors
        total = l2(counted[self.first_counted(regions) :].sum(dim=0, keepdim=True))
        return RegionDescriptors(
            described.image, Regions(_enclosing(as_tensor(regions.boxes)), regions.size), total, described.metadata
        )

    def row(self, vectors: Tensor, scores: Tensor) -> Tensor:
        """See :meth:`Aggregator.row`."""
        counted = vectors * scores[:, None] if self.weighted else vectors
        return l2(summed_rows(counted, self.whole_image)[None])[0]

    def first_counted(self, regions: Regions) -> int:
        """See :meth:`ImageAggregator.first_counted`."""
        return first_summed(regions, self.whole_image)


def _enclosing(boxes: Tensor) -> Tensor:
    """The smallest box ``(1, 4)`` around all."""
    return torch.cat([boxes[:, :2].amin(dim=0), boxes[:, 2:].amax(dim=0)])[None]
