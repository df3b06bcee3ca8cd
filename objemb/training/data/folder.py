"""Labelled pictures of single objects: a sub-folder for each of them."""

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

#: Side at which pictures are decoded to see whether they can be: few pixels of a JPEG file need little time.
GLANCE = 16


@plugin
class FolderExamples(Examples):
    """Crops or product pictures, each of one object that fills it; the one box is the whole image.

    A picture's instance is the column ``instance`` of the list that named it, else the name of its sub-folder, else its
    own name without suffix. Pictures that cannot be read, or have no instance, are left out and named in the log.

    Args:
        sources: Folders, lists and images; see :func:`objemb.images.find_images`.
        names: A file with instance names instead; see :func:`objemb.datasets.ingredients.instance_names`.
        side: The longest side in pixels that is of use; larger JPEG files are decoded smaller, never below twice it.
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
        """Picture ``first``, or the next one that can still be read, and its number."""

        def read(number: int) -> tuple[int, Photo]:
            picture = self._pictures[number]
            return number, read_photo(picture.path, id=picture.id, side=self.side)

        return read_next("sources", first, len(self), read, lambda number: self._pictures[number].path)

    def identities(self, number: int) -> Tensor:
        """See :meth:`Examples.identities`: no picture is decoded for them."""
        return torch.tensor([self.instances.index(self._pictures[self._checked(number)].instance)])
