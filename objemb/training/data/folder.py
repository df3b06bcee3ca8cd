"""Labelled pictures of single objects, one sub-folder per object."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from objemb import checks
from objemb.datasets.ingredients import find_pictures, instance_names
from objemb.images import read_photo
from objemb.registry import plugin
from objemb.structures import Photo, Regions
from objemb.training.data.base import INSTANCES, Example, Examples, checked_count, read_next, source_list

log = logging.getLogger(__name__)

#: Side at which pictures are decoded to check that they are readable: reduced decoding of a JPEG file is fast.
GLANCE = 16


@plugin
class FolderExamples(Examples):
    """Crops or product pictures, each filled by one object; their only box is the whole image.

    A picture's instance is given by the column ``instance`` of the list that contains it, else by the name of its
    sub-folder, else by its own name without suffix. Pictures that are unreadable or have no instance are left out and
    logged.

    Args:
        sources: Folders, lists and images; see :func:`objemb.images.find_images`.
        names: A file of instance names to use instead; see :func:`objemb.datasets.ingredients.instance_names`.
        side: Longest side in pixels that training needs; larger JPEG files are decoded at a reduced size, which is
            never below twice ``side``.
        count: Number of pictures; by default all.

    Raises:
        ValueError: No picture with an instance is found.
    """

    def __init__(
        self,
        *,
        sources: str | Path | Sequence[str | Path],
        names: str | Path | None = None,
        side: int | None = 512,
        count: int | None = None,
    ) -> None:
        self.side = None if side is None else checks.whole("side", side)
        listed = source_list("sources", sources)
        pictures = find_pictures(listed, lambda path: read_photo(path, side=GLANCE), instance_names(names))
        for skipped in pictures.skipped:
            log.warning("%s: left out: %s", skipped.path, skipped.reason)
        if not pictures.usable:
            raise ValueError(f"sources: expected pictures with an instance, found none in {sources}")
        self.instances = tuple(sorted({p.instance for p in pictures.usable}))
        self._pictures = pictures.usable[: checked_count(count, len(pictures.usable))]

    def __len__(self) -> int:
        return len(self._pictures)

    def __getitem__(self, number: int) -> Example:
        number, photo = self._read(self._checked(number))
        whole = Regions.whole(photo.size)
        return Example(photo, Regions(whole.boxes, photo.size, extras={INSTANCES: self.identities(number)}))

    def _read(self, first: int) -> tuple[int, Photo]:
        """The number and the photo of picture ``first``, or of the next one that is still readable."""

        def read(number: int) -> tuple[int, Photo]:
            picture = self._pictures[number]
            return number, read_photo(picture.path, id=picture.id, side=self.side)

        return read_next("sources", first, len(self), read, lambda number: self._pictures[number].path)

    def identities(self, number: int) -> Tensor:
        """See :meth:`Examples.identities`; no picture is decoded."""
        return torch.tensor([self.instances.index(self._pictures[self._checked(number)].instance)])
