"""The visible parts of objects that lie on each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from objemb.datasets.render.pasting import Patch
from objemb.types import BoolArray

#: Objects that cover more than this fraction of the scene are placed behind all others, most of which they would hide.
LARGE = 1 / 3


@dataclass(frozen=True, eq=False)
class VisibleObject:
    """An object of a scene.

    Attributes:
        number: Number of its patch.
        mask: bool ``(H, W)`` of the scene: the visible part.
        visibility: Visible fraction of the whole object.
    """

    number: int
    mask: BoolArray
    visibility: float


def large_behind(patches: Sequence[Patch], size: tuple[int, int]) -> list[int]:
    """Numbers of the patches from front to back, with those larger than :data:`LARGE` moved behind all others.

    Args:
        patches: The patches from front to back.
        size: ``(height, width)`` of the scene.

    Returns:
        The other patches in the given order, then the large ones in ascending order of size.
    """
    shares = [patch.area / (size[0] * size[1]) for patch in patches]
    return sorted(range(len(patches)), key=lambda n: shares[n] if shares[n] > LARGE else 0.0)


def keep_visible(patches: Sequence[Patch], size: tuple[int, int], least: float) -> list[VisibleObject]:
    """Select the patches that are sufficiently visible; the others are left out, and hide nothing.

    Args:
        patches: The patches from front to back.
        size: ``(height, width)`` of the scene.
        least: Minimum visibility of a patch.

    Returns:
        The selected ones from front to back.
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
    """The objects behind an occluder, or None if any of them would be visible too little."""
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
