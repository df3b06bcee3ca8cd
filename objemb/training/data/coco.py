"""Pictures with the ground-truth boxes of a COCO file."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from objemb import checks
from objemb.coco.instances import CocoInstances
from objemb.images import read_photo
from objemb.images.names import find_spelled
from objemb.registry import plugin
from objemb.structures import Photo, Regions
from objemb.training.data.base import INSTANCES, NO_INSTANCE, Example, Examples, checked_count, read_next

log = logging.getLogger(__name__)

#: Maximum number of problems per file that are logged.
MAX_LOGGED = 100


@plugin
class CocoExamples(Examples):
    """The images of a COCO instances file, including those without boxes.

    Unusable annotations (crowds among them) and missing images are left out; the first ones are logged with file and
    id. A picture that cannot be read, or whose size is not that of its annotations, is replaced by the next usable one:
    used without its boxes, its objects would be learned as background.

    Args:
        file: COCO instances.
        images: Folder that the file names of the images are relative to; by default ``images`` beside the file, or the
            folder of the file itself.
        class_agnostic: Whether all boxes get the single class ``object``.
        masks: Whether segmentations are read into the extra ``masks``, which training a Mask R-CNN needs.
        count: Number of images; by default all.
        side: Longest side in pixels that training needs; larger JPEG files are decoded at a reduced size, which is
            never below twice ``side``.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is not a COCO file, or none of its images exists.
    """

    def __init__(
        self,
        *,
        file: str | Path,
        images: str | Path | None = None,
        class_agnostic: bool = False,
        masks: bool = False,
        count: int | None = None,
        side: int | None = 1333,
    ) -> None:
        self.annotations = CocoInstances(file, class_agnostic=class_agnostic, masks=masks)
        self.instances, self.classes = self.annotations.instances, self.annotations.classes
        self.side = None if side is None else checks.whole("side", side)
        beside = Path(file).parent / "images"
        folder = Path(images) if images is not None else beside if beside.is_dir() else Path(file).parent
        paths = [folder / find_spelled(folder, image.file_name)[0] for image in self.annotations.images]
        self._present = [(number, path) for number, path in enumerate(paths) if path.is_file()]
        if not self._present:
            raise ValueError(f"images: expected the pictures of {file} in {folder}, found not even {paths[0]}")
        self._present = self._present[: checked_count(count, len(self._present))]
        missing = [path for path in paths if not path.is_file()]
        for path in missing[:MAX_LOGGED]:
            log.warning("%s: left out: no such file", path)
        self._logged = 0
        self._log_problems()

    def __len__(self) -> int:
        return len(self._present)

    def __getitem__(self, number: int) -> Example:
        photo, regions, names = self._read(self._checked(number))
        self._log_problems()
        if self.instances:
            regions = replace(regions, extras={**regions.extras, INSTANCES: self._numbers(names).numpy()})
        return Example(photo, regions)

    def box_count(self) -> int:
        """See :meth:`Examples.box_count`."""
        return sum(self.annotations.box_count(image) for image, _ in self._present)

    def _read(self, first: int) -> tuple[Photo, Regions, tuple[str | None, ...]]:
        """The picture of example ``first`` (or of the next usable one), its boxes and their identities."""

        def read(number: int) -> tuple[Photo, Regions, tuple[str | None, ...]]:
            image, path = self._present[number]
            photo = read_photo(path, id=self.annotations.images[image].file_name, side=self.side)
            return photo, *self.annotations.regions(image, photo)

        return read_next(self.annotations.file, first, len(self), read, lambda number: self._present[number][1])

    def _numbers(self, names: tuple[str | None, ...]) -> Tensor:
        known = {name: number for number, name in enumerate(self.instances)}
        return torch.tensor([known[n] if n is not None else NO_INSTANCE for n in names], dtype=torch.int64)

    def _log_problems(self) -> None:
        new = self.annotations.problems[self._logged : MAX_LOGGED]
        self._logged += len(new)
        for entry, reason in new:
            log.warning("%s: %s: %s", self.annotations.file, entry, reason)
        if new and self._logged == MAX_LOGGED:
            log.warning("%s: there may be more, which are not listed", self.annotations.file)
