"""The losses of a Detectron2 network, without putting its layers into training mode.

This module needs Detectron2, so it is imported inside functions only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor

from objemb.detectors._truth import Truth, masks_in, true_objects
from objemb.detectors.capabilities import NetworkInput
from objemb.structures import Regions

if TYPE_CHECKING:
    from detectron2.modeling import GeneralizedRCNN


def detectron2_losses(
    network: GeneralizedRCNN, batch: NetworkInput, features: dict[str, Tensor], targets: Sequence[Regions]
) -> dict[str, Tensor]:
    """The terms of Ren et al., "Faster R-CNN", 2015, and He et al., "Mask R-CNN", 2017, as Detectron2 has them.

    A network of one class is class-agnostic: every true box is of this class, whatever its label. Boxes whose sides are
    below a network pixel are left out.

    Args:
        network: The network.
        batch: The photos.
        features: All maps of its backbone.
        targets: True boxes in original pixels, labels 0-based. The extra ``masks``, uint8 ``(N, mh, mw)`` within the
            boxes, is the target of the mask head of a Mask R-CNN, if all boxes of the batch have it.

    Returns:
        ``loss_rpn_cls``, ``loss_rpn_loc``, ``loss_cls``, ``loss_box_reg`` (of each stage of a cascade) and, from a Mask
        R-CNN with target masks, ``loss_mask``.
    """
    heads, device = network.roi_heads, batch.tensors.device
    true = [true_objects(t, s, heads.num_classes, device) for t, s in zip(targets, batch.image_sizes, strict=True)]
    masked = (
        heads.mask_on and any(len(t.boxes) for t in true) and all(t.masks is not None for t in true if len(t.boxes))
    )
    instances = [_instances(t, s, masked) for t, s in zip(true, batch.image_sizes, strict=True)]
    with _learning(network, masked), EventStorage():  # Detectron2 counts its samples there
        proposals, losses = network.proposal_generator(batch, features, instances)
        _, of_heads = heads(batch, features, proposals, instances)
    return {**losses, **of_heads}


def detectron2_proposal_losses(
    network: GeneralizedRCNN, batch: NetworkInput, features: dict[str, Tensor], targets: Sequence[Regions]
) -> dict[str, Tensor]:
    """Those of :func:`detectron2_losses` that belong to the proposal network: ``loss_rpn_cls`` and ``loss_rpn_loc``.
    Labels are ignored."""
    device = batch.tensors.device
    boxes = [Regions(target.boxes, target.size) for target in targets]
    instances = [
        _instances(true_objects(t, s, 1, device), s, False) for t, s in zip(boxes, batch.image_sizes, strict=True)
    ]
    with _learning(network, False), EventStorage():
        _, losses = network.proposal_generator(batch, features, instances)
    return dict(losses)


@contextmanager
def _learning(network: GeneralizedRCNN, masked: bool) -> Iterator[None]:
    """Make the network compute losses. Only the flags of these modules are set; their layers stay in eval mode."""
    heads, mask_on = network.roi_heads, network.roi_heads.mask_on
    modules = [network.proposal_generator, heads, *([heads.mask_head] if mask_on else [])]
    try:
        heads.mask_on = masked
        for module in modules:
            module.training = True
        yield
    finally:
        heads.mask_on = mask_on
        for module in modules:
            module.training = False


def _instances(true: Truth, input_size: tuple[int, int], masked: bool) -> Instances:
    instances = Instances(input_size, gt_boxes=Boxes(true.boxes), gt_classes=true.labels)
    if masked and true.masks is not None:
        instances.gt_masks = _BoxMasks(true.boxes, true.masks)
    return instances


@dataclass(frozen=True, eq=False)
class _BoxMasks:
    """Masks within their boxes, with the interface of Detectron2's masks of whole images.

    Attributes:
        boxes: ``(N, 4)``.
        masks: float ``(N, mh, mw)``, 0 to 1.
    """

    boxes: Tensor
    masks: Tensor

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, rows: Tensor) -> _BoxMasks:
        return _BoxMasks(self.boxes[rows], self.masks[rows])

    def crop_and_resize(self, boxes: Tensor, side: int) -> Tensor:
        """The mask of each object, cropped to its row of ``boxes`` and resized: float ``(N, side, side)``."""
        return masks_in(boxes, self.boxes, self.masks, side)
