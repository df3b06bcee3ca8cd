"""Products pasted onto photos: boxes and identities of one's own objects without labelling any."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from objemb import checks
from objemb.datasets.compose import ComposeSettings, find_ingredients, split_compositions
from objemb.registry import plugin
from objemb.structures import NO_LABEL, Photo, Regions
from objemb.training.data.base import INSTANCES, Example, Examples, source_list

SPLITS = ("train", "val")
DEFAULT = ComposeSettings()


@plugin
class CompositionExamples(Examples):
    """The scenes of a split of :func:`objemb.datasets.compose.compose`, made when they are asked for.

    The same settings as for ``objemb prepare-data compose`` give the same scenes as there, up to what the compression
    of its files loses; nothing is written, so that there may be any number of them. The class of all products is
    ``object``. With ``annotate_distractors`` pieces of photos and other things have boxes as well, without a class or
    an identity: for a student they are as good as products, and there are far more of them.

    Args:
        objects: Pictures of products: folders, lists, images.
        backgrounds: Photos to lay them on.
        distractors: Pictures of other things; pieces of photos where there are none.
        names: Instance names, see :func:`objemb.datasets.ingredients.instance_names`.
        split: ``train`` or ``val``; they share no product. ``val_share: 0`` leaves all of them to ``train``.
        count: Number of scenes; by default as many as the settings say for the split.
        settings: What the scenes are like; its ``count`` and ``val_count`` where ``count`` is None.

    Raises:
        ValueError: No usable picture or photo, or a split without a product.
    """

    def __init__(
        self,
        *,
        objects: str | Path | Sequence[str | Path],
        backgrounds: str | Path | Sequence[str | Path],
        distractors: str | Path | Sequence[str | Path] = (),
        names: str | Path | None = None,
        split: str = "train",
        count: int | None = None,
        settings: ComposeSettings = DEFAULT,
    ) -> None:
        checks.one_of("split", split, SPLITS)
        if count is not None:
            counted: dict[str, Any] = {"count" if split == "train" else "val_count": checks.whole("count", count)}
            settings = replace(settings, **counted)
        ingredients = find_ingredients(
            source_list("objects", objects),
            source_list("backgrounds", backgrounds),
            settings,
            distractors=source_list("distractors", distractors),
            names=names,
        )
        parts = split_compositions(ingredients, settings)
        if split not in parts:
            raise ValueError(f"split: expected a product in {split!r}, found none with val_share={settings.val_share}")
        self.scenes = parts[split]
        self.instances, self.classes = self.scenes.instances, ("object",)

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, number: int) -> Example:
        scene = self.scenes[self._checked(number)]
        pixels = np.ascontiguousarray(scene.pixels.transpose(2, 0, 1))
        photo = Photo(f"{self.scenes.split}_{number:06d}", pixels, (pixels.shape[1], pixels.shape[2]))
        instances = torch.from_numpy(scene.labels)
        labels = torch.where(instances == NO_LABEL, NO_LABEL, 0)
        boxes = torch.from_numpy(scene.boxes)
        regions = Regions(boxes, photo.size, labels=labels, classes=self.classes, extras={INSTANCES: instances})
        return Example(photo, regions)
