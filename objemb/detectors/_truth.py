"""True boxes and masks of a photo in network pixels, for the losses of a network."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.ops import roi_align

from objemb.ops.boxes import scale
from objemb.ops.tensors import as_tensor
from objemb.structures import Regions

#: True boxes with a shorter side than this, in network pixels, are left out: they contain no pixel, and
#: the logarithm of a side of zero would make the loss infinite.
MIN_SIDE = 1.0
#: Samples of a mask that are averaged for a cell of the target, per direction.
MASK_SAMPLES = 2


@dataclass(frozen=True, eq=False)
class Truth:
    """The true objects of a photo.

    Attributes:
        boxes: float32 ``(N, 4)`` in network pixels, no side below ``MIN_SIDE``.
        labels: int64 ``(N,)``, 0-based.
        masks: float ``(N, mh, mw)`` within the boxes; None if they are unknown.
    """

    boxes: Tensor
    labels: Tensor
    masks: Tensor | None


def true_objects(regions: Regions, input_size: tuple[int, int], classes: int, device: torch.device) -> Truth:
    """The true boxes of a photo in pixels of a network's input.

    Args:
        regions: The true boxes in pixels of the photo.
        input_size: ``(height, width)`` of the photo as the network's input.
        classes: Number of classes of the network. With one class it is class-agnostic: every box is of this class.
        device: Device of the network.

    Raises:
        ValueError: A label is not a class of the network.
    """
    boxes = scale(
        as_tensor(regions.boxes).to(device), (input_size[0] / regions.size[0], input_size[1] / regions.size[1])
    )
    large = (boxes[:, 2:] - boxes[:, :2] >= MIN_SIDE).all(dim=1)
    masks = regions.array("masks")
    return Truth(
        boxes=boxes[large],
        labels=_labels(as_tensor(regions.labels).to(device), classes)[large],
        masks=None if masks is None else as_tensor(masks).to(device)[large].float(),
    )


def masks_in(boxes: Tensor, objects: Tensor, masks: Tensor, side: int) -> Tensor:
    """Masks of objects, cropped to boxes: float ``(N, side, side)``.

    Args:
        boxes: ``(N, 4)``.
        objects: The box of the object for each of them, ``(N, 4)``.
        masks: The mask of each of these objects, within its box, float ``(N, mh, mw)``.
        side: Side of the result in cells.
    """
    corner, extent = objects[:, :2].repeat(1, 2), (objects[:, 2:] - objects[:, :2]).repeat(1, 2)
    cells = boxes.new_tensor([masks.shape[2], masks.shape[1]] * 2)
    numbered = torch.cat([torch.arange(len(boxes), device=boxes.device)[:, None], (boxes - corner) / extent * cells], 1)
    sampled: Tensor = roi_align(masks[:, None], numbered, (side, side), 1.0, MASK_SAMPLES, aligned=True)[:, 0]
    return sampled


def _labels(labels: Tensor, classes: int) -> Tensor:
    if classes == 1:
        return torch.zeros_like(labels)
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise ValueError(f"targets: expected labels from 0 to {classes - 1}, found {int(wrong[0])}")
    return labels
