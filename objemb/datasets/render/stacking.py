"""The visible parts of objects that lie on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from objemb.datasets.render.pasting import Patch
from objemb.types import BoolArray

#: Share of the scene from which an object would hide most of the others, were it in front of them.
LARGE = 1 / 3


@dataclass(frozen=True, eq=False)
class VisibleObject:
    """An object of a scene.

    Attributes:
        number: Which of the patches it is.
        mask: bool ``(H, W)`` of the scene: the part that is visible.
        visibility: The visible share of the whole object.
    """

    number: int
    mask: BoolArray
    visibility: float


def large_behind(patches: Sequence[Patch], size: tuple[int, int]) -> list[int]:
    """Numbers of the patches from the front to the back, as they were but for large ones, which go behind all others.

    Args:
        patches: From the front to the back.
        size: ``(height, width)`` of the scene; what would cover more than :data:`LARGE` of it is large, and of two
            such the larger one is behind.
    """
    shares = [patch.area / (size[0] * size[1]) for patch in patches]
    return sorted(range(len(patches)), key=lambda n: shares[n] if shares[n] > LARGE else 0.0)


def keep_visible(patches: Sequence[Patch], size: tuple[int, int], least: float) -> list[VisibleObject]:
    """The patches that are visible enough; one that is hidden too much is left out and hides nothing.

    Args:
        patches: From the front to the back.
        size: ``(height, width)`` of the scene.
        least: Visibility from which a patch is kept.

    Returns:
        The kept ones, from the front to the back.
    """
    covered = np.zeros(size, dtype=bool)
    kept = []
    for number, patch in enumerate(patches):
        mask = patch.mask(size)
        visible = mask & ~covered
        visibility = _share(visible, patch)
        if visibility >= least and visible.any():
            kept.append(VisibleObject(number, visible, visibility))
            covered |= mask
    return kept


def cover(
    visible: Sequence[VisibleObject], patches: Sequence[Patch], occluder: Patch, least: float
) -> list[VisibleObject] | None:
    """The same objects behind an occluder, or None if too little of one would be left."""
    left = []
    for item in visible:
        hidden = occluder.mask((item.mask.shape[0], item.mask.shape[1]))
        mask = item.mask & ~hidden
        visibility = _share(mask, patches[item.number])
        if visibility < min(least, item.visibility):
            return None
        left.append(VisibleObject(item.number, mask, visibility))
    return left


def _share(mask: BoolArray, patch: Patch) -> float:
    return min(1.0, float(mask.sum()) / patch.area) if patch.area > 0 else 0.0
