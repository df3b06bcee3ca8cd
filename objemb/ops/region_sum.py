"""Which regions of an image join the sum that describes it."""

from __future__ import annotations

from objemb.structures import Regions


def first_summed(regions: Regions, whole_image: bool) -> int:
    """The row that a sum of the vectors of regions starts from.

    It is 1 where region 0 is the whole image and shall not join the grid that the sum is of, as R-MAC has it (Tolias,
    Sicre and Jegou 2015); else 0. A whole image that is the only region is always summed.

    Args:
        regions: Of an image.
        whole_image: Whether the whole image joins.
    """
    if whole_image or len(regions) < 2:
        return 0
    height, width = regions.size
    return int(regions.boxes[0].tolist() == [0, 0, width, height])
