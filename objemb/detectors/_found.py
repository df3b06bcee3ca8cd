"""What a network found, in pixels of the photo."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from objemb.ops.boxes import clip, scale
from objemb.structures import Photo, Regions

#: A cell shows the object if the network gives it at least this probability.
MASK_THRESHOLD = 0.5


def found_regions(
    boxes: Tensor,
    seen: tuple[int, int],
    photo: Photo,
    *,
    scores: Tensor | None = None,
    labels: Tensor | None = None,
    classes: Sequence[str] = (),
    masks: Tensor | None = None,
) -> Regions:
    """Boxes of a network as :meth:`~objemb.detectors.base.Detector.detect` returns them.

    Args:
        boxes: ``(N, 4)`` in pixels of what the network saw of the photo, ``seen`` ``(height, width)`` large.
        seen: See above.
        photo: The photo.
        scores: ``(N,)``.
        labels: ``(N,)``, 0-based.
        classes: Their names.
        masks: Probabilities ``(N, mh, mw)`` within the boxes.
    """
    extras = {}
    if masks is not None:
        sure = masks >= MASK_THRESHOLD
        # an object of which no cell is sure is attended to as a whole, for nothing could be pooled otherwise
        extras["masks"] = (sure | ~sure.flatten(1).any(1)[:, None, None]).byte()
    return Regions(
        boxes=clip(scale(boxes, (photo.size[0] / seen[0], photo.size[1] / seen[1])), photo.size),
        size=photo.size,
        scores=scores,
        labels=labels,
        classes=tuple(classes),
        extras=extras,
    )
