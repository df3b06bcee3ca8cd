"""Boxes that are stored in a file: ground truth, or the output of any other detector."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from objemb.coco.files import CocoBox, CocoImage, read_coco
from objemb.coco.masks import SIDE
from objemb.coco.regions import FrameError, regions_of
from objemb.detectors.base import Detector
from objemb.disk import file_sha256
from objemb.images.names import composed
from objemb.registry import plugin
from objemb.structures import Photo, Regions


@plugin
class StoredBoxes(Detector):
    """Boxes of a COCO file, instances or results.

    A photo is matched by name first: the ``file_name`` has to be the photo's id, or the end of its path including
    folders; Unicode normalisation is ignored. A name without folders matches a photo in any folder, but only one photo:
    a second photo of this name has no boxes. Otherwise a photo is matched by the image id, if its name does not
    contradict it. If the file has only ids and no names, the id is the photo's name without its suffix and, for a
    number, without leading zeros (``val/000000000139.jpg`` is image 139, as in COCO).

    Boxes are clipped to the image. If the size of an image in the file differs from that of the photo, they are rotated
    or scaled accordingly, see :mod:`objemb.ops.frames`. Entries that cannot be used are left out and recorded in
    ``problems``; they do not raise errors.

    Args:
        file: COCO instances, or COCO results: a list of ``{"image_id", "category_id", "bbox", "score"}``.
        images: Instances file with the names of the images and categories of a results file; without it, their ids are
            their names.
        min_score: Boxes with lower scores are left out, None for all boxes; ground truth has the score 1.
        masks: Whether segmentations become the extra ``masks``. The mask of an object without one is its whole box.

    Attributes:
        entries: Number of boxes in the file, usable or not.
        left_out: Ids of photos without boxes although the file may have boxes for them: those were made for another
            frame or another photo, or two images match the photo.
        adjusted: Ids of photos whose boxes were rotated or scaled.
        fractional_ids: Whether ids in the file are written as ``7.0``; they are read as 7.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: It is not a COCO file, or its boxes are not x, y, width, height in pixels.
    """

    #: Settings that name a file, whatever they say.
    files: ClassVar[dict[str, str]] = {"file": "", "images": ""}

    def __init__(
        self, file: str | Path, *, images: str | Path | None = None, min_score: float | None = None, masks: bool = False
    ) -> None:
        content = read_coco(file, images)
        self.file, self.classes, self.masks = str(file), content.classes, masks
        self.entries, self.fractional_ids = content.entries, content.fractional_ids
        self.left_out: set[str] = set()
        self.adjusted: set[str] = set()
        self._problems = dict.fromkeys(content.problems)
        self._boxes: defaultdict[str, list[CocoBox]] = defaultdict(list)
        for box in content.boxes:
            if min_score is None or box.score >= min_score:
                self._boxes[box.image].append(box)
        self._served: dict[str, tuple[str | None, str]] = {}  # by image: path and id of its photo
        self._used: dict[str, int] = {}  # by image
        self._asked = False
        self._images = _Images(content.images, content.named)

    def content_hash(self) -> str:
        """See :meth:`Detector.content_hash`."""
        return file_sha256(Path(self.file))

    @property
    def problems(self) -> list[tuple[str, str]]:
        """``(entry, reason)`` for everything that was left out so far, in the file and for photos, each once."""
        return list(self._problems)

    @property
    def used(self) -> int:
        """Number of boxes of the file that were used so far, each counted once."""
        return sum(self._used.values())

    @property
    def unused(self) -> bool:
        """Whether none of the boxes could be used so far, although there were photos and boxes."""
        return self._asked and self.entries > 0 and bool(self._problems) and not self.used

    @property
    def in_doubt(self) -> bool:
        """Whether a user should check the boxes: photos may be without their boxes, no box was used, or boxes were
        rotated or scaled, or ids are written as ``7.0``."""
        return bool(self.left_out or self.unused or self.adjusted) or (self.fractional_ids and self._asked)

    def expect_used(self) -> None:
        """See :meth:`Detector.expect_used`."""
        if self.unused:
            entry, reason = next(reversed(self._problems))
            raise ValueError(
                f"{self.file}: expected boxes of the photos, found none among its {self.entries} that can be used; "
                f"the last problem is {entry}: {reason}"
            )

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """Boxes of photos, in original pixels, by descending score. A photo that is not in the file has none."""
        self._asked |= len(photos) > 0
        return [self._regions(photo) for photo in photos]

    def _regions(self, photo: Photo) -> Regions:
        try:
            image = self._images.of(photo)
            if image is None:
                hint = self._images.hint(photo)
                self._report(photo.id, f"expected an image of {self.file}, found none with its name or id{hint}")
                return self._none(photo)
            boxes = self._boxes.get(image.id, [])
            if boxes:
                self._expect_first(photo, image)
            regions, stored = regions_of(photo, image, boxes, self.classes, masks=self.masks, report=self._report)
        except (FrameError, _AmbiguousError) as error:
            self.left_out.add(photo.id)
            self._report(photo.id, f"the boxes of {self.file} are left out: {error}")
            return self._none(photo)
        self._used[image.id] = len(stored)
        if stored and image.size not in (None, photo.size):
            self.adjusted.add(photo.id)
        return regions

    def _expect_first(self, photo: Photo, image: CocoImage) -> None:
        """Check that the boxes of an image are not used for two photos."""
        path, id = self._served.setdefault(image.id, (photo.path, photo.id))
        known = None not in (path, photo.path)
        if (path != photo.path) if known else (id != photo.id):
            raise _AmbiguousError(f"expected one photo {image.file_name!r}, found {id!r} before")

    def _none(self, photo: Photo) -> Regions:
        extras = {"masks": np.zeros((0, SIDE, SIDE), dtype=np.uint8)} if self.masks else {}
        return Regions(np.zeros((0, 4), dtype=np.float32), photo.size, classes=self.classes, extras=extras)

    def _report(self, entry: str, reason: str) -> None:
        self._problems[entry, reason] = None


class _AmbiguousError(ValueError):
    """Two images match the photo, or two photos match the image."""


class _Images:
    """The images of a file, looked up for photos.

    Args:
        images: All images.
        named: Whether they have names, instead of ids only.
    """

    def __init__(self, images: Sequence[CocoImage], named: bool) -> None:
        self._named = named
        self._by_id = {image.id: image for image in images}
        self._by_name: defaultdict[str, list[CocoImage]] = defaultdict(list)
        self._by_parts: defaultdict[tuple[str, ...], list[CocoImage]] = defaultdict(list)
        self._by_last_part: defaultdict[str, list[CocoImage]] = defaultdict(list)
        for image in images:
            parts = _parts(image.file_name)
            self._by_name[image.file_name].append(image)
            self._by_parts[parts].append(image)
            self._by_last_part[parts[-1]].append(image)

    def of(self, photo: Photo) -> CocoImage | None:
        """The image that matches a photo; None if there is none.

        Raises:
            _AmbiguousError: Two images of the file match the photo; both are named.
        """
        matching = self._by_name.get(photo.id) or self._of_these_folders(photo)
        if not self._named:
            numbers = (self._by_id.get(n) for n in _numbers(photo))
            matching = list({i.id: i for i in (*matching, *numbers) if i is not None}.values())
        elif not matching:
            known = self._by_id.get(photo.id)
            matching = [known] if known is not None and self._same_name(known, photo) else []
        if len(matching) > 1:
            first, second = (f"{i.file_name!r} (id {i.id})" for i in matching[:2])
            raise _AmbiguousError(f"expected one image that could be the photo, found {first} and {second}")
        return matching[0] if matching else None

    def hint(self, photo: Photo) -> str:
        """A hint for a photo without an image: an image that nearly matches."""
        elsewhere = self._of_this_name(photo)
        if elsewhere:
            return f"; {elsewhere[0].file_name!r} is in another folder"
        if photo.id in self._by_id:
            return f"; the image with this id is {self._by_id[photo.id].file_name!r}"
        return ""

    def _of_these_folders(self, photo: Photo) -> list[CocoImage]:
        """Images whose name and folders match the end of the photo's path, with as many folders as possible."""
        id = _parts(photo.id)
        path = id if photo.path is None else _parts(photo.path)
        ends = (self._by_parts.get(path[-n:]) for n in range(len(path), 0, -1))
        if images := next(filter(None, ends), None):
            return images
        if len(id) == 1 and photo.path is not None:  # its folders are known and differ
            return []
        return [i for i in self._by_last_part.get(id[-1], ()) if _parts(i.file_name)[-len(id) :] == id]

    def _of_this_name(self, photo: Photo) -> list[CocoImage]:
        """Images whose name matches a photo's, without folders."""
        lasts = dict.fromkeys(_parts(name)[-1] for name in (photo.id, photo.path) if name is not None)
        return [image for last in lasts for image in self._by_last_part.get(last, ())]

    def _same_name(self, image: CocoImage, photo: Photo) -> bool:
        """Whether the name of an image with a photo's id does not contradict the photo's name; folders are ignored."""
        return photo.path is None or _parts(image.file_name)[-1] == _parts(photo.path)[-1]


def _parts(name: str) -> tuple[str, ...]:
    """Folders and name in Unicode normal form, with separators of any system; at least one part."""
    parts = posixpath.normpath(composed(name).replace("\\", "/")).split("/")
    return tuple(p for p in parts if p not in ("", "..")) or ("",)


def _numbers(photo: Photo) -> list[str]:
    """Possible ids of a photo's image in a file without names."""
    stems = [posixpath.splitext(_parts(name)[-1])[0] for name in (photo.path, photo.id) if name is not None]
    return [n for stem in stems for n in (stem, str(int(stem)) if stem.isdecimal() else stem)]
