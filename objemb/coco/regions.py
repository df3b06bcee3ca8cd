"""Boxes of a COCO file on the photo that they were made for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from objemb.coco.files import CocoBox, CocoImage
from objemb.coco.masks import SIDE, mask_in_box
from objemb.coco.units import LIMIT, leaves
from objemb.ops.frames import Frame, frame_in
from objemb.structures import Photo, Regions
from objemb.types import Uint8Array

#: Takes an entry, of the file or a photo, and what is wrong with it.
Report = Callable[[str, str], None]


class FrameError(ValueError):
    """The boxes of a file were made for another photo, or for a frame of it that cannot be told."""


def regions_of(
    photo: Photo,
    image: CocoImage,
    boxes: Sequence[CocoBox],
    classes: tuple[str, ...],
    *,
    masks: bool,
    report: Report,
) -> tuple[Regions, list[CocoBox]]:
    """Boxes clipped to a photo, by falling score, and the entry of each row.

    Args:
        photo: The photo.
        image: Its entry in the file. Where the file gives another size than the photo has, boxes and masks are
            rotated or scaled with it, see :mod:`objemb.ops.frames`.
        boxes: Its boxes in the file. Those outside the image are left out and reported.
        classes: Names of the labels.
        masks: Whether segmentations become the extra ``masks``. An object without one gets its whole box.
        report: Called with everything that is wrong with single boxes.

    Raises:
        FrameError: There are boxes, but none can be used: the file's size of the photo does not say how they lie in
            it, or it says none and they leave the photo.
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
    """The frame that the boxes of an image were made in."""
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
    """The ``(height, width)`` that masks say, where they are runs."""
    for box in boxes:
        size = box.segmentation.get("size") if isinstance(box.segmentation, Mapping) else None
        if isinstance(size, list) and len(size) == 2 and all(type(s) is int and 0 < s < LIMIT for s in size):
            return (size[0], size[1])
    return None


def _usable(
    image: CocoImage, boxes: Sequence[CocoBox], size: tuple[int, int], report: Report
) -> list[tuple[CocoBox, list[float]]]:
    """The boxes that lie in an image of ``(height, width)``, with their edges clipped to it."""
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
