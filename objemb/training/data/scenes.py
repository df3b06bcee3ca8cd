"""Rendered scenes, which need no download."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from objemb import checks
from objemb.datasets.scenes import SPLITS, Scenes, SceneSettings
from objemb.registry import plugin
from objemb.structures import Photo, Regions
from objemb.training.data.base import INSTANCES, Example, Examples

DEFAULT = SceneSettings()


@plugin
class SceneExamples(Examples):
    """The scenes of a split of :class:`objemb.datasets.scenes.Scenes`, rendered on demand.

    With the same seed and settings as ``objemb prepare-data scenes`` the scenes are the same, apart from the
    compression losses of its files.

    Args:
        split: ``train``, ``val`` or ``test``; they share no identity.
        count: Number of scenes; by default that of the settings for the split.
        families: Number of product families; by default that of the settings for the split.
        cache: Whether rendered scenes are kept in memory (``3 size^2`` bytes each, in each data loading process);
            useful if a run uses each scene several times.
        settings: Settings of the scenes.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        count: int | None = None,
        families: int | None = None,
        cache: bool = False,
        settings: SceneSettings = DEFAULT,
    ) -> None:
        checks.one_of("split", split, SPLITS)
        of_split = {f"{split}_scenes": count, f"{split}_families": families}
        known: dict[str, Any] = {
            name: checks.whole(name, value) for name, value in of_split.items() if value is not None
        }
        self.scenes = Scenes(replace(settings, **known), split)
        self.instances, self.classes = self.scenes.instances, self.scenes.categories
        self.cache = checks.flag("cache", cache)
        self._kept: dict[int, Example] = {}

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, number: int) -> Example:
        number = self._checked(number)
        if number in self._kept:
            return self._kept[number]
        example = self._draw(number)
        if self.cache:
            self._kept[number] = example
        return example

    def _draw(self, number: int) -> Example:
        scene = self.scenes[number]
        photo = Photo(
            f"{self.scenes.split}_{number:06d}",
            np.ascontiguousarray(scene.pixels.transpose(2, 0, 1)),
            scene.pixels.shape[:2],
        )
        regions = Regions(
            torch.from_numpy(scene.boxes),
            photo.size,
            labels=torch.tensor([self.classes.index(c) for c in scene.categories], dtype=torch.int64),
            classes=self.classes,
            extras={INSTANCES: torch.from_numpy(scene.labels)},
        )
        return Example(photo, regions)
