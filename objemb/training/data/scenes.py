"""Generated scenes, which need no download."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from objemb import checks
from objemb.datasets.scenes import SPLITS, Scenes, SceneSettings
from objemb.registry import plugin
from objemb.structures import Photo, Regions
from objemb.training.data.base import INSTANCES, Example, Examples

_DEFAULT = SceneSettings()


@plugin
class SceneExamples(Examples):
    """The scenes of a split of :class:`objemb.datasets.scenes.Scenes`, drawn when they are asked for.

    The same seed and settings as for ``objemb prepare-data scenes`` give the same scenes as there, up to what the
    compression of its files loses.

    Args:
        split: ``train``, ``val`` or ``test``; no split shares an identity with another.
        count: Number of scenes; by default as many as the generator's settings say for the split.
        families: Number of families; likewise.
        cache: Whether scenes are kept in memory once they were drawn (``3 size^2`` bytes each, in each process that
            loads data): right where they are seen several times.
        seed, size, variants, objects_per_scene, object_size, alone, rotation, perspective, siblings, occlusion,
        min_visibility, clutter, light, noise, category: See :class:`objemb.datasets.scene_settings.SceneSettings`.
    """

    def __init__(
        self,
        *,
        split: str = "train",
        count: int | None = None,
        families: int | None = None,
        cache: bool = False,
        seed: int = _DEFAULT.seed,
        size: int = _DEFAULT.size,
        variants: int = _DEFAULT.variants,
        objects_per_scene: Sequence[int] = _DEFAULT.objects_per_scene,
        object_size: Sequence[float] = _DEFAULT.object_size,
        alone: float = _DEFAULT.alone,
        rotation: float = _DEFAULT.rotation,
        perspective: float = _DEFAULT.perspective,
        siblings: float = _DEFAULT.siblings,
        occlusion: float = _DEFAULT.occlusion,
        min_visibility: float = _DEFAULT.min_visibility,
        clutter: float = _DEFAULT.clutter,
        light: float = _DEFAULT.light,
        noise: float = _DEFAULT.noise,
        category: str = _DEFAULT.category,
    ) -> None:
        checks.one_of("split", split, SPLITS)
        of_split = {f"{split}_scenes": count, f"{split}_families": families}
        settings = SceneSettings(
            seed=seed,
            size=size,
            variants=variants,
            objects_per_scene=tuple(objects_per_scene),  # type: ignore[arg-type]
            object_size=tuple(object_size),  # type: ignore[arg-type]
            alone=alone,
            rotation=rotation,
            perspective=perspective,
            siblings=siblings,
            occlusion=occlusion,
            min_visibility=min_visibility,
            clutter=clutter,
            light=light,
            noise=noise,
            category=category,
            **{k: checks.whole(k, v) for k, v in of_split.items() if v is not None},  # type: ignore[arg-type]
        )
        self.scenes = Scenes(settings, split)
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
            torch.from_numpy(scene.pixels).permute(2, 0, 1).contiguous(),
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
