"""The losses of Faster and Mask R-CNN, without putting any module into training mode."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.models.detection.rpn import RegionProposalNetwork

from objemb.detectors._truth import masks_in, true_objects
from objemb.detectors.capabilities import NetworkInput
from objemb.structures import Regions


def rcnn_losses(
    network: GeneralizedRCNN, batch: NetworkInput, pyramid: Mapping[str, Tensor], targets: Sequence[Regions]
) -> dict[str, Tensor]:
    """The terms of Ren et al., "Faster R-CNN", 2015, and He et al., "Mask R-CNN", 2017, as torchvision has them.

    A network of one class is class-agnostic: every true box is of this class, whatever its label. Boxes whose sides are
    below a network pixel are left out.

    Args:
        network: The network.
        batch: The photos.
        pyramid: Maps by name, including levels for proposals only.
        targets: True boxes in original pixels, labels 0-based. The extra ``masks``, uint8 ``(N, mh, mw)`` within the
            boxes, is the target of the mask head of a Mask R-CNN; photos without it train only the boxes.

    Returns:
        ``loss_objectness``, ``loss_rpn_box_reg``, ``loss_classifier``, ``loss_box_reg`` and, from a Mask R-CNN if a
        photo has masks, ``loss_mask``.
    """
    truth = [_truth(network, t, s) for t, s in zip(targets, batch.image_sizes, strict=True)]
    proposals, losses = _proposed(network, batch, pyramid, truth)
    heads = network.roi_heads
    proposals, matches, labels, deltas = heads.select_training_samples(proposals, truth)
    logits, found = heads.box_predictor(heads.box_head(heads.box_roi_pool(pyramid, proposals, batch.image_sizes)))
    if len(logits):
        losses["loss_classifier"], losses["loss_box_reg"] = fastrcnn_loss(logits, found, labels, deltas)
    else:  # no proposals: torchvision's mean would be 0 / 0
        losses["loss_classifier"], losses["loss_box_reg"] = logits.sum(), found.sum()
    if heads.has_mask() and any(t["masks"] is not None for t in truth):
        rows = [_foreground(of_photo, t) for of_photo, t in zip(labels, truth, strict=True)]
        picked = [[values[r] for values, r in zip(v, rows, strict=True)] for v in (proposals, matches, labels)]
        losses["loss_mask"] = _mask_loss(heads, pyramid, batch.image_sizes, truth, *picked)
    return losses


def proposal_losses(
    network: GeneralizedRCNN, batch: NetworkInput, pyramid: Mapping[str, Tensor], targets: Sequence[Regions]
) -> dict[str, Tensor]:
    """The terms of :func:`rcnn_losses` that belong to the proposal network: ``loss_objectness`` and
    ``loss_rpn_box_reg``. Labels are ignored."""
    unlabelled = [Regions(target.boxes, target.size) for target in targets]
    truth = [_truth(network, t, s, 1) for t, s in zip(unlabelled, batch.image_sizes, strict=True)]
    return _proposed(network, batch, pyramid, truth)[1]


def _proposed(
    network: GeneralizedRCNN,
    batch: NetworkInput,
    pyramid: Mapping[str, Tensor],
    truth: Sequence[Mapping[str, Tensor | None]],
) -> tuple[list[Tensor], dict[str, Tensor]]:
    """The proposals ``(P, 4)`` of each photo in network pixels, and the losses of the proposal network."""
    with _learning(network.rpn):
        proposals, losses = network.rpn(batch, pyramid, truth)
    return proposals, losses


@contextmanager
def _learning(rpn: RegionProposalNetwork) -> Iterator[None]:
    """Make the proposal network compute losses. Only the flag of this module is set; its layers stay in eval mode."""
    rpn.training = True
    try:
        yield
    finally:
        rpn.training = False


def _truth(
    network: GeneralizedRCNN, regions: Regions, input_size: tuple[int, int], classes: int | None = None
) -> dict[str, Tensor | None]:
    """The true boxes of a photo as torchvision expects them: ``boxes`` in network pixels, ``labels`` from 1,
    ``masks``; ``classes`` is the number of classes if it is not that of the box head."""
    weight = network.roi_heads.box_predictor.cls_score.weight
    true = true_objects(regions, input_size, len(weight) - 1 if classes is None else classes, weight.device)
    return {"boxes": true.boxes, "labels": true.labels + 1, "masks": true.masks}


def _foreground(labels: Tensor, truth: Mapping[str, Tensor | None]) -> Tensor:
    """Indices of the sampled boxes that are foreground and have a target mask."""
    return torch.where(labels > 0 if truth["masks"] is not None else torch.zeros_like(labels, dtype=torch.bool))[0]


def _mask_loss(
    heads: RoIHeads,
    pyramid: Mapping[str, Tensor],
    sizes: Sequence[tuple[int, int]],
    truth: Sequence[Mapping[str, Any]],
    boxes: Sequence[Tensor],
    matches: Sequence[Tensor],
    labels: Sequence[Tensor],
) -> Tensor:
    """Binary cross entropy of the mask of each box's true class."""
    logits: Tensor = heads.mask_predictor(heads.mask_head(heads.mask_roi_pool(pyramid, list(boxes), sizes)))
    chosen = logits[torch.arange(len(logits), device=logits.device), torch.cat(list(labels))]
    if not len(chosen):
        return logits.sum()
    wanted = [
        masks_in(b, t["boxes"][m], t["masks"][m], chosen.shape[-1])
        for b, m, t in zip(boxes, matches, truth, strict=True)
        if len(b)
    ]
    return F.binary_cross_entropy_with_logits(chosen, torch.cat(wanted).to(chosen.dtype))
