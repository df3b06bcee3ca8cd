"""Boxes that are stored in a file: ground truth, or what any other detector found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import torch

from objemb.detectors._coco_file import StoredBox, StoredImage, read_coco
from objemb.detectors._coco_mask import SIDE
from objemb.detectors._coco_regions import regions_of
from objemb.detectors.base import Detector
from objemb.registry import plugin
from objemb.structures import Photo, Regions


@plugin
class StoredBoxes(Detector):
    """Boxes of a COCO file, instances or results, looked up by the id of the photo.

    A photo is looked for by the image id of the file, then by file name, then by the last part of the path; where the
    file has no names but ids alone, also by that part without its suffix and, if it is a number, without leading zeros
    (``val/000000000139.jpg`` is image 139, as COCO and its tools have it). Boxes are clipped to the photo. Whatever
    cannot be used is left out and recorded in ``problems``; nothing of it is fatal.

    Args:
        file: COCO instances, or COCO results: a list of ``{"image_id", "category_id", "bbox", "score"}``.
        images: Instances file that gives the images and categories of a results file their names; without it, they are
            called by their numbers.
        min_score: Boxes with lower scores are left out, None for all boxes; ground truth has score 1.
        masks: Whether segmentations become the extra ``masks``. An object without one gets its whole box.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a COCO file.
    """

    def __init__(
        self, file: str | Path, *, images: str | Path | None = None, min_score: float | None = None, masks: bool = False
    ) -> None:
        content = read_coco(file, images)
        self.file, self.classes, self.masks = str(file), content.classes, masks
        self._problems = dict.fromkeys(content.problems)
        self._boxes: defaultdict[str, list[StoredBox]] = defaultdict(list)
        for box in content.boxes:
            if min_score is None or box.score >= min_score:
                self._boxes[box.image].append(box)
        self._served: dict[str, str] = {}
        self._by_id = {i.id: i for i in content.images}
        self._by_name: defaultdict[str, list[StoredImage]] = defaultdict(list)
        self._by_last_part: defaultdict[str, list[StoredImage]] = defaultdict(list)
        for image in content.images:
            self._by_name[image.file_name].append(image)
            self._by_last_part[PurePosixPath(image.file_name).name].append(image)

    @property
    def problems(self) -> list[tuple[str, str]]:
        """``(entry, reason)`` of all that was left out so far, in the file and for the photos seen, each once."""
        return list(self._problems)

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """Boxes of photos, in original pixels, by falling score. A photo that the file does not know has none.

        Raises:
            ValueError: Two images of the file could be the photo; both are named.
        """
        return [self._regions(photo, self._find(photo.id)) for photo in photos]

    def _find(self, photo: str) -> StoredImage | None:
        if photo in self._by_id:
            return self._by_id[photo]
        path = PurePosixPath(photo)
        candidates = self._by_name.get(photo) or self._by_last_part.get(path.name) or self._by_number(path.stem)
        if len(candidates) > 1:  # the same name in several folders: the one whose folders fit
            candidates = [i for i in candidates if _ends_with(path, i.file_name)] or candidates
        if len(candidates) > 1:
            first, second = (f"{i.file_name!r} (id {i.id})" for i in candidates[:2])
            raise ValueError(f"{self.file}: expected one image for photo {photo!r}, found {first} and {second}")
        return candidates[0] if candidates else None

    def _by_number(self, stem: str) -> list[StoredImage]:
        """The image of a file without names whose id a photo is named after."""
        number = str(int(stem)) if stem.isdecimal() else stem
        found = self._by_id.get(stem) or self._by_id.get(number)
        return [found] if found is not None and found.file_name == found.id else []

    def _regions(self, photo: Photo, image: StoredImage | None) -> Regions:
        if image is None:
            self._report(photo.id, f"expected an image of {self.file}, found none with this id or file name")
        elif self._served.setdefault(image.id, photo.id) != photo.id:
            self._report(photo.id, f"gets the boxes of {image.file_name!r}, as {self._served[image.id]!r} did")
        if image is None:
            nothing = torch.zeros(0, SIDE, SIDE, dtype=torch.uint8)
            extras = {"masks": nothing} if self.masks else {}
            return Regions(torch.zeros(0, 4), photo.size, classes=self.classes, extras=extras)
        boxes = self._boxes.get(image.id, [])
        return regions_of(photo, image, boxes, self.classes, file=self.file, masks=self.masks, report=self._report)[0]

    def _report(self, entry: str, reason: str) -> None:
        self._problems[entry, reason] = None


def _ends_with(path: PurePosixPath, file_name: str) -> bool:
    parts = PurePosixPath(file_name).parts
    return path.parts[-len(parts) :] == parts
