"""Boxes of a COCO file on the photo that they were made for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from objemb.detectors._coco_file import StoredBox, StoredImage
from objemb.detectors._coco_mask import SIDE, mask_in_box
from objemb.structures import Photo, Regions

#: A box may leave a photo whose size differs from the one in the file by this many pixels.
FIT_TOLERANCE = 1.0

#: Takes an entry, of the file or a photo, and what is wrong with it.
Report = Callable[[str, str], None]


def regions_of(
    photo: Photo,
    image: StoredImage,
    boxes: Sequence[StoredBox],
    classes: tuple[str, ...],
    *,
    file: str,
    masks: bool,
    report: Report,
) -> tuple[Regions, list[StoredBox]]:
    """Boxes clipped to a photo, by falling score, and the entry of each row.

    Args:
        photo: The photo.
        image: What the file knows of it.
        boxes: Its boxes in the file. Those outside the photo are left out and reported; so is a photo of another size
            than in the file.
        classes: Names of the labels.
        file: What to call the file in reports.
        masks: Whether segmentations become the extra ``masks``. An object without one gets its whole box.
        report: Called with everything that is wrong.
    """
    usable = sorted(_usable(photo, image, boxes, file, report), key=lambda b: -b[0].score)
    stored, edges = [b for b, _ in usable], [e for _, e in usable]
    regions = Regions(
        boxes=torch.tensor(edges, dtype=torch.float32).reshape(-1, 4),
        size=photo.size,
        scores=torch.tensor([b.score for b in stored], dtype=torch.float32),
        labels=torch.tensor([b.label for b in stored], dtype=torch.int64),
        classes=classes,
        extras={"masks": _masks(photo, image, usable, report)} if masks else {},
    )
    return regions, stored


def _usable(
    photo: Photo, image: StoredImage, boxes: Sequence[StoredBox], file: str, report: Report
) -> list[tuple[StoredBox, list[float]]]:
    """The boxes of an image that lie in the photo, with their edges clipped to it."""
    height, width = photo.size
    same = image.size in (None, photo.size)
    if not same and image.size:
        found = f"{image.size[1]} x {image.size[0]}"
        report(photo.id, f"expected a photo of {found} pixels as in {file}, found {width} x {height}")
    usable = []
    for stored in boxes:
        x1, y1, x2, y2 = stored.box
        low, high = -FIT_TOLERANCE, (width + FIT_TOLERANCE, height + FIT_TOLERANCE)
        fits = same or (x1 >= low and y1 >= low and x2 <= high[0] and y2 <= high[1])
        edges = [max(x1, 0.0), max(y1, 0.0), min(x2, width), min(y2, height)]
        if fits and edges[0] < edges[2] and edges[1] < edges[3]:
            usable.append((stored, edges))
        else:
            report(stored.entry, f"expected a box in {photo.id} ({width} x {height}), found {stored.box}")
    return usable


def _masks(photo: Photo, image: StoredImage, stored: Sequence[tuple[StoredBox, list[float]]], report: Report) -> Tensor:
    masks = torch.ones(len(stored), SIDE, SIDE, dtype=torch.uint8)
    for row, (box, edges) in enumerate(stored):
        try:
            if image.size not in (None, photo.size):
                raise ValueError("the file was made for another size of the photo")
            masks[row] = mask_in_box(box.segmentation, edges, photo.size)
        except ValueError as error:
            report(box.entry, f"the mask is the whole box: {error}")
    return masks
