"""Boxes that are stored in a file: ground truth, or the output of any other detector."""

from __future__ import annotations

import posixpath
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from objemb.coco.files import CocoBox, CocoImage, read_coco
from objemb.coco.masks import SIDE
from objemb.coco.regions import FrameError, regions_of
from objemb.detectors.base import Detector
from objemb.disk import file_sha256
from objemb.images.names import composed
from objemb.registry import plugin
from objemb.structures import Photo, Regions


@dataclass(frozen=True)
class BoxFile:
    """What all photos share whose boxes come from a file.

    Attributes:
        file: Its path, for messages.
        classes: Names of the labels.
        masks: Whether segmentations become the extra ``masks``.
    """

    file: str
    classes: tuple[str, ...]
    masks: bool


@dataclass(frozen=True)
class GivenBoxes:
    """What a file has for one photo, found by the photo's names: another process may place it on the pixels.

    Attributes:
        image: The image of the file; None if there is none for the photo.
        boxes: Its boxes.
        reason: Why there are none, if there might be; empty otherwise.
        left_out: Whether the file may have boxes for the photo nevertheless.
    """

    image: CocoImage | None
    boxes: tuple[CocoBox, ...] = ()
    reason: str = ""
    left_out: bool = False

    def to_json(self, *, masks: bool) -> dict[str, object]:
        """JSON-ready; :meth:`from_json` reverses it. Without ``masks``, of segmentations only the size of runs is kept,
        which may be that of the image."""
        return asdict(self if masks else replace(self, boxes=tuple(map(_without_mask, self.boxes))))

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> GivenBoxes:
        """The boxes from :meth:`to_json`."""
        image = data["image"]
        if image is not None:
            size = None if image["size"] is None else tuple(image["size"])
            image = CocoImage(image["id"], image["file_name"], size)
        boxes = tuple(CocoBox(**{**box, "box": tuple(box["box"])}) for box in data["boxes"])
        return GivenBoxes(image, boxes, data["reason"], data["left_out"])


@dataclass(frozen=True)
class PlacedBoxes:
    """What became of the boxes of one photo.

    Attributes:
        photo: Id of the photo.
        image: Id of the image of the file whose boxes were used; None if there is none.
        used: How many were used.
        adjusted: Whether they were rotated or scaled.
        left_out: Whether the photo is without boxes that the file may have for it.
        problems: ``(entry, reason)`` of what was left out.
    """

    photo: str
    image: str | None = None
    used: int = 0
    adjusted: bool = False
    left_out: bool = False
    problems: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> PlacedBoxes:
        """The record whose ``asdict`` was written as JSON."""
        return PlacedBoxes(**{**data, "problems": tuple((entry, reason) for entry, reason in data["problems"])})


def placed(photo: Photo, given: GivenBoxes, file: BoxFile) -> tuple[Regions, PlacedBoxes]:
    """The boxes of a photo, in original pixels, by descending score, and what became of those of the file."""
    problems: list[tuple[str, str]] = [(photo.id, given.reason)] if given.reason else []
    image, left_out = given.image, given.left_out
    if image is not None and not left_out:
        try:
            regions, stored = regions_of(
                photo, image, given.boxes, file.classes, masks=file.masks, report=lambda *entry: problems.append(entry)
            )
        except FrameError as error:
            left_out = True
            problems.append((photo.id, _left_out(file.file, error)))
        else:
            adjusted = bool(stored) and image.size not in (None, photo.size)
            return regions, PlacedBoxes(photo.id, image.id, len(stored), adjusted, problems=tuple(problems))
    extras = {"masks": np.zeros((0, SIDE, SIDE), dtype=np.uint8)} if file.masks else {}
    none = Regions(np.zeros((0, 4), dtype=np.float32), photo.size, classes=file.classes, extras=extras)
    return none, PlacedBoxes(photo.id, left_out=left_out, problems=tuple(problems))


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
        found = []
        for photo in photos:
            regions, outcome = placed(photo, self.given_for(photo.id, photo.path), self.about)
            self.record(outcome)
            found.append(regions)
        return found

    @property
    def about(self) -> BoxFile:
        """What all photos share."""
        return BoxFile(self.file, self.classes, self.masks)

    def given_for(self, id: str, path: str | None) -> GivenBoxes:
        """What the file has for a photo, by its id and the absolute path of its file, which is None for an image that
        is not from a file. The boxes of an image are given to one photo only: the first one that asks."""
        photo = _Names(id, path)
        try:
            image = self._images.of(photo)
            if image is None:
                hint = self._images.hint(photo)
                return GivenBoxes(
                    None, reason=f"expected an image of {self.file}, found none with its name or id{hint}"
                )
            boxes = tuple(self._boxes.get(image.id, ()))
            if boxes:
                self._expect_first(photo, image)
        except _AmbiguousError as error:
            return GivenBoxes(None, reason=_left_out(self.file, error), left_out=True)
        return GivenBoxes(image, boxes)

    def record(self, outcome: PlacedBoxes) -> None:
        """Count what became of the boxes of a photo, here or in another process."""
        self._asked = True
        self._problems |= dict.fromkeys(outcome.problems)
        if outcome.left_out:
            self.left_out.add(outcome.photo)
        if outcome.image is not None:
            self._used[outcome.image] = outcome.used
        if outcome.adjusted:
            self.adjusted.add(outcome.photo)

    def _expect_first(self, photo: _Names, image: CocoImage) -> None:
        """Check that the boxes of an image are not used for two photos."""
        path, id = self._served.setdefault(image.id, (photo.path, photo.id))
        known = None not in (path, photo.path)
        if (path != photo.path) if known else (id != photo.id):
            raise _AmbiguousError(f"expected one photo {image.file_name!r}, found {id!r} before")


def _left_out(file: str, why: Exception) -> str:
    return f"the boxes of {file} are left out: {why}"


def _without_mask(box: CocoBox) -> CocoBox:
    runs = box.segmentation
    return replace(box, segmentation={"size": runs.get("size")} if isinstance(runs, Mapping) else None)


@dataclass(frozen=True)
class _Names:
    """The id of a photo, and the absolute path of its file."""

    id: str
    path: str | None


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

    def of(self, photo: _Names) -> CocoImage | None:
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

    def hint(self, photo: _Names) -> str:
        """A hint for a photo without an image: an image that nearly matches."""
        elsewhere = self._of_this_name(photo)
        if elsewhere:
            return f"; {elsewhere[0].file_name!r} is in another folder"
        if photo.id in self._by_id:
            return f"; the image with this id is {self._by_id[photo.id].file_name!r}"
        return ""

    def _of_these_folders(self, photo: _Names) -> list[CocoImage]:
        """Images whose name and folders match the end of the photo's path, with as many folders as possible."""
        id = _parts(photo.id)
        path = id if photo.path is None else _parts(photo.path)
        ends = (self._by_parts.get(path[-n:]) for n in range(len(path), 0, -1))
        if images := next(filter(None, ends), None):
            return images
        if len(id) == 1 and photo.path is not None:  # its folders are known and differ
            return []
        return [i for i in self._by_last_part.get(id[-1], ()) if _parts(i.file_name)[-len(id) :] == id]

    def _of_this_name(self, photo: _Names) -> list[CocoImage]:
        """Images whose name matches a photo's, without folders."""
        lasts = dict.fromkeys(_parts(name)[-1] for name in (photo.id, photo.path) if name is not None)
        return [image for last in lasts for image in self._by_last_part.get(last, ())]

    def _same_name(self, image: CocoImage, photo: _Names) -> bool:
        """Whether the name of an image with a photo's id does not contradict the photo's name; folders are ignored."""
        return photo.path is None or _parts(image.file_name)[-1] == _parts(photo.path)[-1]


def _parts(name: str) -> tuple[str, ...]:
    """Folders and name in Unicode normal form, with separators of any system; at least one part."""
    parts = posixpath.normpath(composed(name).replace("\\", "/")).split("/")
    return tuple(p for p in parts if p not in ("", "..")) or ("",)


def _numbers(photo: _Names) -> list[str]:
    """Possible ids of a photo's image in a file without names."""
    stems = [posixpath.splitext(_parts(name)[-1])[0] for name in (photo.path, photo.id) if name is not None]
    return [n for stem in stems for n in (stem, str(int(stem)) if stem.isdecimal() else stem)]
