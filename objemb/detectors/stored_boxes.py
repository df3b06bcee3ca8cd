"""Boxes that are stored in a file: ground truth, or what any other detector found."""

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

    A photo is looked for by its name: the ``file_name`` is the photo's id, or what its path ends with, folders
    included, whatever the normal form of its letters. A name without folders is that of a photo in any folder, but of
    one photo only: a second one of this name gets no boxes. Then by its id: it is the image id of the file, where the
    photo's own name does not speak against it. Where the file has no names but ids alone, the photo's name without its
    suffix and, if it is a number, without leading zeros is the id (``val/000000000139.jpg`` is image 139, as COCO and
    its tools have it).

    Boxes are clipped to the image and, where the file gives another size for it than the photo has, turned or scaled
    with it, see :mod:`objemb.ops.frames`. Whatever cannot be used is left out and recorded in ``problems``; nothing of
    it is fatal.

    Args:
        file: COCO instances, or COCO results: a list of ``{"image_id", "category_id", "bbox", "score"}``.
        images: Instances file that gives the images and categories of a results file their names; without it, they are
            called by their numbers.
        min_score: Boxes with lower scores are left out, None for all boxes; ground truth has score 1.
        masks: Whether segmentations become the extra ``masks``. An object without one gets its whole box.

    Attributes:
        entries: How many boxes the file has, usable or not.
        left_out: Ids of photos that got no boxes although the file has boxes that may be theirs: made for another
            frame or another photo, or there are two images that could be the photo.
        adjusted: Ids of photos whose boxes were turned or scaled with them.
        fractional_ids: Whether ids of the file are written as ``7.0``; they are read as 7.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is not a COCO file, or its boxes as a whole are no x, y, width, height in pixels.
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
        """``(entry, reason)`` of all that was left out so far, in the file and for the photos seen, each once."""
        return list(self._problems)

    @property
    def used(self) -> int:
        """How many boxes of the file were given out so far, each counted once."""
        return sum(self._used.values())

    @property
    def unused(self) -> bool:
        """Whether there were photos, and boxes, but not one box of them could be used so far."""
        return self._asked and self.entries > 0 and bool(self._problems) and not self.used

    @property
    def in_doubt(self) -> bool:
        """Whether someone should look at what became of the boxes: photos that the file may mean are without theirs, no
        box was used at all, or some were read otherwise than they are written: turned, scaled, ids as ``7.0``."""
        return bool(self.left_out or self.unused or self.adjusted) or (self.fractional_ids and self._asked)

    def expect_used(self) -> None:
        """See :meth:`Detector.expect_used`."""
        if self.unused:
            entry, reason = next(reversed(self._problems))
            raise ValueError(
                f"{self.file}: expected boxes of the photos, found that none of its {self.entries} can be used; "
                f"the last problem is {entry}: {reason}"
            )

    def detect(self, photos: Sequence[Photo]) -> list[Regions]:
        """Boxes of photos, in original pixels, by falling score. A photo that the file does not know has none."""
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
        """The boxes of an image are those of one photo."""
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
    """Two images could be the photo, or two photos the image."""


class _Images:
    """The images of a file, looked up for photos.

    Args:
        images: All of them.
        named: Whether their names are names, not ids.
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
        """The image that a photo is, None where there is none.

        Raises:
            _AmbiguousError: Two images of the file could be the photo; both are named.
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
        """What comes near a photo that no image is."""
        elsewhere = self._of_this_name(photo)
        if elsewhere:
            return f"; {elsewhere[0].file_name!r} is in another folder"
        if photo.id in self._by_id:
            return f"; the image with this id is {self._by_id[photo.id].file_name!r}"
        return ""

    def _of_these_folders(self, photo: Photo) -> list[CocoImage]:
        """Images whose folders and name a photo lies in, of the most folders, as far as both sides know them."""
        id = _parts(photo.id)
        path = id if photo.path is None else _parts(photo.path)
        ends = (self._by_parts.get(path[-n:]) for n in range(len(path), 0, -1))
        if images := next(filter(None, ends), None):
            return images
        if len(id) == 1 and photo.path is not None:  # its own folders are known, and are others
            return []
        return [i for i in self._by_last_part.get(id[-1], ()) if _parts(i.file_name)[-len(id) :] == id]

    def _of_this_name(self, photo: Photo) -> list[CocoImage]:
        """Images whose name without folders is that of a photo."""
        lasts = dict.fromkeys(_parts(name)[-1] for name in (photo.id, photo.path) if name is not None)
        return [image for last in lasts for image in self._by_last_part.get(last, ())]

    def _same_name(self, image: CocoImage, photo: Photo) -> bool:
        """Whether an image with a photo's id may be the photo by its name, folders left out of account."""
        return photo.path is None or _parts(image.file_name)[-1] == _parts(photo.path)[-1]


def _parts(name: str) -> tuple[str, ...]:
    """Folders and name, in one normal form of letters, whatever the system that wrote them; at least one part."""
    parts = posixpath.normpath(composed(name).replace("\\", "/")).split("/")
    return tuple(p for p in parts if p not in ("", "..")) or ("",)


def _numbers(photo: Photo) -> list[str]:
    """What the image of a photo may be called in a file that has ids alone."""
    stems = [posixpath.splitext(_parts(name)[-1])[0] for name in (photo.path, photo.id) if name is not None]
    return [n for stem in stems for n in (stem, str(int(stem)) if stem.isdecimal() else stem)]
