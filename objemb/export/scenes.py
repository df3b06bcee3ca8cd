"""Generated scenes in place of photos of the user, to verify an export on."""

from __future__ import annotations

import numpy as np

from objemb.datasets.scenes import Scenes, SceneSettings
from objemb.structures import Photo
from objemb.types import Uint8Array

#: Side of a rendered scene in pixels.
SIDE = 640
#: ``(height, width)`` of the photos, each a part of its scene: some of one size, for batches, among them portraits; two
#: smaller than the input of usual networks; and a strip that is one pixel wide.
SHAPES = ((480, 640), (640, 480), (480, 640), (640, 480), (640, 640), (640, 360), (240, 320), (97, 131), (640, 1))


def verification_scenes() -> list[Photo]:
    """Scenes of products as photos of several shapes, always with the same bytes."""
    scenes = Scenes(SceneSettings(size=SIDE), "test")
    photos = []
    for number, (height, width) in enumerate(SHAPES):
        pixels = _middle(scenes[number].pixels, height, width).transpose(2, 0, 1)
        name = f"generated scene {number + 1} ({width} x {height})"
        photos.append(Photo(name, np.ascontiguousarray(pixels), (height, width)))
    return photos


def _middle(pixels: Uint8Array, height: int, width: int) -> Uint8Array:
    top, left = (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    return pixels[top : top + height, left : left + width]
