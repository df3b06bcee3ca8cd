"""COCO instances: photos with ground-truth boxes, as used for training."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np

from objemb import checks
from objemb.coco.files import DISTRACTOR, OBJECT, CocoBox, CocoImage, read_coco
from objemb.coco.regions import regions_of
from objemb.structures import Photo, Regions


class CocoInstances:
    """A file of COCO instances (Lin et al., "Microsoft COCO", 2014).

    Category ids, which may have gaps, are mapped to labels from 0 in their order. Crowd annotations and invalid entries
    are left out and recorded in ``problems``. Images may have no annotations.

    Args:
        file: The JSON file.
        class_agnostic: Whether to give all boxes the class ``object``, independent of their categories.
        masks: Whether to read segmentations.

    Attributes:
        images: Images in the order of the file.
        classes: Names of the labels.
        instances: Sorted names of the instances of annotations (the key ``instance`` in files written by
            ``objemb prepare-data``); empty if there are none. Annotated distractors have no instance.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a COCO file, or has no images.
    """

    images: tuple[CocoImage, ...]

    def __init__(self, file: str | Path, *, class_agnostic: bool = False, masks: bool = False) -> None:
        content = read_coco(file)
        if not content.images:
            raise ValueError(f"{file}: expected COCO instances with at least one image, found none")
        self.file, self.images = str(file), content.images
        self._agnostic = checks.flag("class_agnostic", class_agnostic)
        self._masks = checks.flag("masks", masks)
        self._named = content.classes
        self.classes = (OBJECT,) if class_agnostic else content.classes
        self._problems = dict.fromkeys(content.problems)
        boxes = content.boxes if masks else tuple(replace(b, segmentation=None) for b in content.boxes)
        self._boxes: defaultdict[str, list[CocoBox]] = defaultdict(list)
        for box in boxes:
            self._boxes[box.image].append(box)
        self.instances = tuple(sorted({name for b in boxes if (name := self._instance(b)) is not None}))

    def box_count(self, number: int) -> int:
        """Number of boxes of image ``number`` (from 0) inside the size that the file gives; the photo is not read."""
        image = self.images[number]
        height, width = image.size or (math.inf, math.inf)
        boxes = (b.box for b in self._boxes.get(image.id, ()))
        return sum(x1 < width and y1 < height and x2 > 0 and y2 > 0 for x1, y1, x2, y2 in boxes)

    @property
    def problems(self) -> list[tuple[str, str]]:
        """``(entry, reason)`` of everything left out so far, each once. An entry has the id of its annotation."""
        return list(self._problems)

    def regions(self, number: int, photo: Photo) -> tuple[Regions, tuple[str | None, ...]]:
        """The ground-truth boxes of an image, clipped to its photo, and their instances.

        Args:
            number: Number of the image, from 0.
            photo: The photo of the image. Boxes outside it are left out and recorded; if its size differs from that in
                the file, boxes are rotated or scaled to it, see :mod:`objemb.ops.frames`.

        Returns:
            ``Regions`` in original pixels, with the extra ``masks``, uint8 ``(N, 28, 28)`` within the boxes, if masks
            are read; and the name of the instance of each row, or None.

        Raises:
            FrameError: There are boxes, but they belong to another photo.
        """
        image = self.images[number]
        boxes = self._boxes.get(image.id, [])
        regions, stored = regions_of(photo, image, boxes, self._named, masks=self._masks, report=self._report)
        if self._agnostic:
            regions = replace(regions, labels=np.zeros_like(regions.labels), classes=self.classes)
        return regions, tuple(self._instance(b) for b in stored)

    def _instance(self, box: CocoBox) -> str | None:
        return None if self._named[box.label] == DISTRACTOR else box.instance

    def _report(self, entry: str, reason: str) -> None:
        self._problems[entry, reason] = None
