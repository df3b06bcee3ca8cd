"""Ways to join a pasted picture to what it lies on.

A detector trained on one kind of seam learns the seam; with several it has to learn the object (Dwibedi, Misra and
Hebert, "Cut, Paste and Learn", ICCV 2017).
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from objemb.datasets.render.pasting import Patch, paste, to_planes
from objemb.types import Float32Array

BLENDS = ("soft", "hard", "feather", "blur")


def trim(patch: Patch, blend: str, width: float) -> Patch:
    """The patch with the edge of a blend: ``hard`` cuts it, ``feather`` lets it fade inwards, the others leave it.

    Args:
        patch: What is pasted.
        blend: One of :data:`BLENDS`.
        width: Of the seam, in pixels.
    """
    if blend == "hard":
        return patch.with_alpha((patch.alpha >= 0.5).astype(np.float32))
    if blend == "feather" and patch.alpha.size:
        return patch.with_alpha(np.minimum(patch.alpha, np.clip(2 * _soft(patch.alpha, width) - 1, 0, 1)))
    return patch


def join(canvas: Float32Array, patch: Patch, blend: str, width: float) -> None:
    """Lay a trimmed patch over a float32 ``(3, H, W)`` canvas; ``blur`` blurs the canvas along the seam."""
    paste(canvas, patch)
    if blend != "blur" or not patch.alpha.size:
        return
    region = canvas[:, *patch.window]
    image = Image.fromarray(np.clip(region, 0, 255).astype(np.uint8).transpose(1, 2, 0))
    blurred = to_planes(image.filter(ImageFilter.GaussianBlur(width)))
    soft = _soft(patch.alpha, width)
    region += (blurred - region) * (4 * soft * (1 - soft))


def _soft(alpha: Float32Array, width: float) -> Float32Array:
    """Alpha, blurred; what is out of the picture counts as the rim."""
    image = Image.fromarray((alpha * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(width))
    return np.asarray(image).astype(np.float32) / np.float32(255)
