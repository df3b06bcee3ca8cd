"""How many regions it takes to cover the objects of photos: recall against the number of regions."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from objemb.ops.boxes import iou
from objemb.ops.tensors import as_tensor
from objemb.structures import Regions

#: Numbers of regions at which recall is measured, and the IoU from which a region covers an object.
COUNTS, IOUS = (1, 2, 4, 8, 16, 32, 64, 128, 256), (0.5, 0.7)


def region_recall(
    regions: Sequence[Regions],
    truth: Sequence[Regions],
    counts: Sequence[int] = COUNTS,
    ious: Sequence[float] = IOUS,
) -> dict[float, list[float]]:
    """The share of true boxes that one of the first regions of their photo covers.

    Args:
        regions: Regions of each photo, best first; the whole image, region 0 of a region source, counts as any other.
        truth: True boxes of the same photos.
        counts: Numbers of regions, from the first one.
        ious: Least IoU of a region with a box that it covers.

    Returns:
        For each IoU, the recall at each count, 0 to 1; NaN if there is no true box.

    Raises:
        ValueError: The photos differ in number or size.
    """
    if [r.size for r in regions] != [t.size for t in truth]:
        raise ValueError(
            f"regions: expected the photos of the truth, found {len(regions)} of sizes unlike those {len(truth)}"
        )
    best: list[torch.Tensor] = [torch.zeros(0, len(counts))]
    for of_photo, true in zip(regions, truth, strict=True):
        # the best IoU among the first 1, 2, 3 ... regions; none before the first
        overlaps = iou(as_tensor(true.boxes), as_tensor(of_photo.boxes))
        highest = torch.cat([overlaps.new_zeros(len(true), 1), overlaps], dim=1).cummax(dim=1).values
        best.append(highest[:, [min(count, len(of_photo)) for count in counts]])
    covered = torch.cat(best)
    return {least: (covered >= least).float().mean(dim=0).tolist() for least in ious}
