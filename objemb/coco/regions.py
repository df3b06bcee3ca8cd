"""Boxes of a COCO file as regions of a photo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from objemb.coco.files import CocoBox, CocoImage
from objemb.coco.masks import SIDE, mask_in_box
from objemb.coco.units import LIMIT, leaves
from objemb.ops.frames import Frame, frame_in
from objemb.structures import Photo, Regions
from objemb.types import Uint8Array

#: Called with an entry of the file, or a photo, and the reason why it is wrong.
Report = Callable[[str, str], None]


class FrameError(ValueError):
    """The boxes of a file belong to another photo, or to an unknown frame of it."""


def regions_of(
    photo: Photo,
    image: CocoImage,
    boxes: Sequence[CocoBox],
    classes: tuple[str, ...],
    *,
    masks: bool,
    report: Report,
) -> tuple[Regions, list[CocoBox]]:
    """The regions of a photo in order of decreasing score, with boxes clipped to it, and the entry of each.

    Args:
        photo: The photo.
        image: Its entry in the file. If the size in the file differs from that of the photo, boxes and masks are
            rotated or scaled to the photo, see :mod:`objemb.ops.frames`.
        boxes: Its boxes in the file. Those outside the image are left out and reported.
        classes: Names of the labels.
        masks: Whether to add segmentations as the extra ``masks``. The mask of an object without one is its whole box.
        report: Called for each box that is wrong.

    Returns:
        ``Regions`` in original pixels, and the entries of the file in the same order.

    Raises:
        FrameError: There are boxes, but the size in the file does not fit the photo, or the file has no size and boxes
            lie outside the photo.
    """
    frame = _frame(photo, image, boxes) if boxes else Frame(photo.size, photo.size)
    usable = sorted(_usable(image, boxes, frame.size, report), key=lambda b: -b[0].score)
    stored, edges = [b for b, _ in usable], np.array([e for _, e in usable], dtype=np.float64).reshape(-1, 4)
    regions = Regions(
        boxes=frame.boxes(edges).astype(np.float32),
        size=photo.size,
        scores=np.array([b.score for b in stored], dtype=np.float32),
        labels=np.array([b.label for b in stored], dtype=np.int64),
        classes=classes,
        extras={"masks": frame.masks(_masks(usable, frame.size, report))} if masks else {},
    )
    return regions, stored


def _frame(photo: Photo, image: CocoImage, boxes: Sequence[CocoBox]) -> Frame:
    """The frame of the boxes of an image."""
    size = image.size or _size_of_runs(boxes)
    if size is not None:
        try:
            return frame_in(photo, size)
        except ValueError as error:
            raise FrameError(str(error)) from error
    if leaves([b.box for b in boxes], photo.size):
        height, width = photo.size
        raise FrameError(
            f"expected boxes x, y, width, height inside {width} x {height} pixels, found some that leave the photo: "
            "they are corners, or were made for another size, which the file does not say"
        )
    return Frame(photo.size, photo.size)


def _size_of_runs(boxes: Sequence[CocoBox]) -> tuple[int, int] | None:
    """The ``(height, width)`` of masks given as run lengths, None if there are none."""
    for box in boxes:
        size = box.segmentation.get("size") if isinstance(box.segmentation, Mapping) else None
        if isinstance(size, list) and len(size) == 2 and all(type(s) is int and 0 < s < LIMIT for s in size):
            return (size[0], size[1])
    return None


def _usable(
    image: CocoImage, boxes: Sequence[CocoBox], size: tuple[int, int], report: Report
) -> list[tuple[CocoBox, list[float]]]:
    """The boxes that overlap an image of ``(height, width)``, with their edges clipped to it."""
    height, width = size
    usable = []
    for stored in boxes:
        x1, y1, x2, y2 = stored.box
        edges = [max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)]
        if edges[0] < edges[2] and edges[1] < edges[3]:
            usable.append((stored, edges))
        else:
            report(stored.entry, f"expected a box in {image.file_name} ({width} x {height}), found {stored.box}")
    return usable


def _masks(stored: Sequence[tuple[CocoBox, list[float]]], size: tuple[int, int], report: Report) -> Uint8Array:
    masks = np.ones((len(stored), SIDE, SIDE), dtype=np.uint8)
    for row, (box, edges) in enumerate(stored):
        try:
            masks[row] = mask_in_box(box.segmentation, edges, size)
        except ValueError as error:
            report(box.entry, f"the mask is the whole box: {error}")
    return masks
