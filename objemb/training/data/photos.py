"""Unlabelled photos with random boxes, for distillation without labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from objemb import checks
from objemb.datasets.seeds import generator
from objemb.images import ImageRef, find_images, read_photo
from objemb.registry import plugin
from objemb.structures import Photo, Regions
from objemb.training.data.base import Example, Examples, checked_count, read_next, source_list


@plugin
class PhotoExamples(Examples):
    """Photos, each with boxes at random places: data for distillation, which needs variety rather than labels.

    The boxes have no labels and no identities. With several ``views``, the first view of each photo is the photo
    itself; the others are random parts of it, half of them mirrored, each a photo with its own boxes. The examples are
    the first views of all photos, then all second views, and so on.

    An unreadable photo is replaced by the next readable one and logged.

    Args:
        sources: Folders, lists and images; see :func:`objemb.images.find_images`.
        boxes: Minimum and maximum number of boxes in a photo.
        box_size: Minimum and maximum geometric mean of the sides of a box, as a share of that of the photo; drawn
            log-uniformly, so that small boxes are as frequent as large ones.
        aspect: Maximum ratio of the longer to the shorter side of a box, drawn log-uniformly.
        views: Number of views of each photo.
        view_size: Minimum and maximum side of a view as a share of the photo's side.
        count: Number of examples; by default the number of photos times that of views.
        side: Longest side in pixels that training needs; larger JPEG files are decoded at a reduced size, which is
            never below twice ``side``.
        seed: Seed of all random choices.

    Raises:
        ValueError: The sources contain no photo.
    """

    def __init__(
        self,
        *,
        sources: str | Path | Sequence[str | Path],
        boxes: Sequence[int] = (4, 12),
        box_size: Sequence[float] = (0.06, 0.8),
        aspect: float = 3.0,
        views: int = 1,
        view_size: Sequence[float] = (0.4, 1.0),
        count: int | None = None,
        side: int | None = 1024,
        seed: int = 0,
    ) -> None:
        self.boxes = checks.whole_interval("boxes", boxes)
        self.box_size = checks.interval("box_size", box_size, 0.01, 1)
        self.aspect = checks.between("aspect", aspect, 1, 100)
        self.views = checks.whole("views", views)
        self.view_size = checks.interval("view_size", view_size, 0.05, 1)
        self.side = None if side is None else checks.whole("side", side)
        self.seed = seed
        self._refs = [ref for ref in find_images(source_list("sources", sources)) if isinstance(ref, ImageRef)]
        if not self._refs:
            raise ValueError(f"sources: expected at least one photo, found none in {sources}")
        self._count = checked_count(count, len(self._refs) * self.views)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Example:
        view, first = divmod(self._checked(number), len(self._refs))
        rng = generator("photos", self.seed, number)
        photo = self._read(first)
        if view:
            photo = self._part(rng, photo, view)
        return Example(photo, self._boxes(rng, photo.size))

    def _read(self, first: int) -> Photo:
        """Photo ``first``, or the next readable one."""
        refs = self._refs

        def read(number: int) -> Photo:
            return read_photo(refs[number].path, id=refs[number].id, side=self.side)

        return read_next("sources", first, len(refs), read, lambda number: refs[number].path)

    def _part(self, rng: np.random.Generator, photo: Photo, view: int) -> Photo:
        """A random part of the decoded pixels, as a photo with its own frame."""
        height, width = (max(1, round(s * rng.uniform(*self.view_size))) for s in photo.pixels.shape[1:])
        top = int(rng.integers(photo.pixels.shape[1] - height + 1))
        left = int(rng.integers(photo.pixels.shape[2] - width + 1))
        pixels = photo.pixels[:, top : top + height, left : left + width]
        pixels = pixels[:, :, ::-1] if rng.random() < 0.5 else pixels
        return Photo(f"{photo.id}#{view}", np.ascontiguousarray(pixels), (height, width), photo.metadata)

    def _boxes(self, rng: np.random.Generator, size: tuple[int, int]) -> Regions:
        """Random boxes inside an image of ``(height, width)``; sides are limited to those of the image."""
        height, width = size
        count = int(rng.integers(self.boxes[0], self.boxes[1] + 1))
        least, greatest = np.log(self.box_size).tolist()
        sides = math.sqrt(height * width) * np.exp(rng.uniform(least, greatest, count))
        stretch = np.exp(rng.uniform(-0.5, 0.5, count) * math.log(self.aspect))
        extent = np.stack([np.minimum(sides * stretch, width), np.minimum(sides / stretch, height)], axis=1)
        low = rng.uniform(0, 1, (count, 2)) * (np.array([width, height]) - extent)
        return Regions(torch.from_numpy(np.concatenate([low, low + extent], axis=1)).float(), size)
