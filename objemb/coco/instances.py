"""COCO instances: pictures with true boxes, as they are learned from."""

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

    Category ids, which have gaps, become labels from 0 in their order. Whatever cannot be used is left out and recorded
    in ``problems``: annotations of crowds, which are no single objects, and those that are broken. Images without
    annotations are normal.

    Args:
        file: The JSON file.
        class_agnostic: Whether all boxes are of one class, ``object``, whatever their categories.
        masks: Whether segmentations are read.

    Attributes:
        images: In the order of the file.
        classes: Names of the labels.
        instances: Names of the identities that the annotations have (the key ``instance`` of files that
            ``objemb prepare-data`` makes), sorted; empty where there are none. Annotated distractors have none.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no COCO file, or has no images.
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
        """How many boxes of image ``number``, from 0, lie in it as far as the file says, its photo unseen."""
        image = self.images[number]
        height, width = image.size or (math.inf, math.inf)
        boxes = (b.box for b in self._boxes.get(image.id, ()))
        return sum(x1 < width and y1 < height and x2 > 0 and y2 > 0 for x1, y1, x2, y2 in boxes)

    @property
    def problems(self) -> list[tuple[str, str]]:
        """``(entry, reason)`` of all that was left out so far, each once. An entry gives the id of an annotation."""
        return list(self._problems)

    def regions(self, number: int, photo: Photo) -> tuple[Regions, tuple[str | None, ...]]:
        """The true boxes of an image, clipped to its photo, and the identity of each where it is known.

        Args:
            number: Of the image, from 0.
            photo: The picture that it names. Boxes outside it are left out and recorded; where it has another size
                than the file says, they are turned or scaled with it, see :mod:`objemb.ops.frames`.

        Returns:
            ``Regions`` in original pixels, with the extra ``masks``, uint8 ``(N, 28, 28)`` within the boxes, if masks
            are read; names or None, one per row.

        Raises:
            FrameError: There are boxes, but they were made for another picture: none can be used.
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
