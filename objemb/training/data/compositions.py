"""Products pasted onto photos: examples with boxes and identities without any labelling."""

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
    """The scenes of a split of :func:`objemb.datasets.compose.compose`, composed on demand.

    With the same settings as ``objemb prepare-data compose`` the scenes are the same, apart from the compression losses
    of its files. Nothing is written to disk, so the number of scenes is unlimited. All products have the class
    ``object``. With ``annotate_distractors`` distractors have boxes as well, without class or identity: a student can
    learn from them as well as from products, and there are far more of them.

    Args:
        objects: Pictures of products: folders, lists, images.
        backgrounds: Photos to paste them onto.
        distractors: Pictures of other things; by default parts of photos.
        names: Instance names, see :func:`objemb.datasets.ingredients.instance_names`.
        split: ``train`` or ``val``; they share no product. With ``val_share: 0`` all products are in ``train``.
        count: Number of scenes; by default ``count`` or ``val_count`` of the settings, depending on the split.
        settings: Settings of the scenes.

    Raises:
        ValueError: There is no usable picture or photo, or a split has no product.
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
