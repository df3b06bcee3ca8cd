"""Outputs of a network as regions of the photo."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from objemb.ops.boxes import clip, scale
from objemb.structures import Photo, Regions

#: A cell belongs to the mask if the network gives it at least this probability.
MASK_THRESHOLD = 0.5


def photo_regions(
    boxes: Tensor,
    input_size: tuple[int, int],
    photo: Photo,
    *,
    scores: Tensor | None = None,
    labels: Tensor | None = None,
    classes: Sequence[str] = (),
    masks: Tensor | None = None,
) -> Regions:
    """Boxes of a network as :meth:`~objemb.detectors.base.Detector.detect` returns them, in pixels of the photo.

    Args:
        boxes: float ``(N, 4)``, xyxy edges in pixels of the network's input.
        input_size: ``(height, width)`` of the photo as the network's input.
        photo: The photo.
        scores: ``(N,)``.
        labels: ``(N,)``, 0-based.
        classes: Their names.
        masks: Probabilities ``(N, mh, mw)`` within the boxes.
    """
    extras = {}
    if masks is not None:
        certain = masks >= MASK_THRESHOLD
        # if no cell reaches the threshold, the mask is the whole box, because an empty mask could not be pooled
        extras["masks"] = (certain | ~certain.flatten(1).any(1)[:, None, None]).byte()
    return Regions(
        boxes=clip(scale(boxes, (photo.size[0] / input_size[0], photo.size[1] / input_size[1])), photo.size),
        size=photo.size,
        scores=scores,
        labels=labels,
        classes=tuple(classes),
        extras=extras,
    )
