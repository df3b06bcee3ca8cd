"""A generated picture with its annotated objects."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

from objemb.datasets.render.stacking import VisibleObject
from objemb.ops.masks import box_of
from objemb.types import BoolArray, Float32Array, Int64Array, Uint8Array


@dataclass(frozen=True, eq=False)
class Scene:
    """A generated picture and its objects; ``N`` may be 0.

    Attributes:
        pixels: uint8 ``(h, w, 3)``, RGB.
        boxes: float32 ``(N, 4)``, xyxy edges in pixels, tight around the visible part.
        labels: int64 ``(N,)``, index of the instance in the data set.
        instances: Name of each object's instance.
        categories: Name of each object's category.
        visibilities: float32 ``(N,)``, visible share of each object.
        masks: bool ``(N, h, w)``, the visible parts.
    """

    pixels: Uint8Array
    boxes: Float32Array
    labels: Int64Array
    instances: tuple[str, ...]
    categories: tuple[str, ...]
    visibilities: Float32Array
    masks: BoolArray


class SceneSource(Protocol):
    """Numbered scenes; a number always gives the same scene, in any process."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Scene: ...

    def pictures(self, instance: str) -> Iterable[Image.Image]:
        """Pictures of an instance, RGB, for queries, other than those in scenes of the database.

        Empty for anything that is not an instance, such as a distractor.
        """
        ...

    @property
    def categories(self) -> tuple[str, ...]:
        """All category names, in the order of their COCO ids."""
        ...


def make_scene(
    pixels: Uint8Array,
    visible: Sequence[VisibleObject],
    labels: Sequence[int],
    instances: tuple[str, ...],
    categories: tuple[str, ...],
) -> Scene:
    """A scene of its visible objects; the four sequences go together."""
    masks = np.array([s.mask for s in visible], dtype=bool).reshape(-1, *pixels.shape[:2])
    return Scene(
        pixels=pixels,
        boxes=np.array([box_of(m) for m in masks], dtype=np.float32).reshape(-1, 4),
        labels=np.array(labels, dtype=np.int64),
        instances=instances,
        categories=categories,
        visibilities=np.array([s.visibility for s in visible], dtype=np.float32),
        masks=masks,
    )
