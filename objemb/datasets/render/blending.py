"""Ways to blend a pasted picture with the background.

A detector trained on a single kind of seam learns to find the seam; with several kinds it has to learn the object
(Dwibedi, Misra and Hebert, "Cut, Paste and Learn", ICCV 2017).
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from objemb.datasets.render.pasting import Patch, paste, to_planes
from objemb.types import Float32Array

BLENDS = ("soft", "hard", "feather", "blur")


def trim(patch: Patch, blend: str, width: float) -> Patch:
    """The patch with the edge of a blend: a hard one for ``hard``, one that fades inwards for ``feather``.

    Args:
        patch: The patch to be pasted; unchanged for other blends.
        blend: One of :data:`BLENDS`.
        width: Width of the seam in pixels.
    """
    if blend == "hard":
        return patch.with_alpha((patch.alpha >= 0.5).astype(np.float32))
    if blend == "feather" and patch.alpha.size:
        return patch.with_alpha(np.minimum(patch.alpha, np.clip(2 * _soft(patch.alpha, width) - 1, 0, 1)))
    return patch


def join(canvas: Float32Array, patch: Patch, blend: str, width: float) -> None:
    """Paste a trimmed patch onto a float32 ``(3, H, W)`` canvas; ``blur`` blurs the canvas along the seam."""
    paste(canvas, patch)
    if blend != "blur" or not patch.alpha.size:
        return
    region = canvas[:, *patch.window]
    image = Image.fromarray(np.clip(region, 0, 255).astype(np.uint8).transpose(1, 2, 0))
    blurred = to_planes(image.filter(ImageFilter.GaussianBlur(width)))
    soft = _soft(patch.alpha, width)
    region += (blurred - region) * (4 * soft * (1 - soft))


def _soft(alpha: Float32Array, width: float) -> Float32Array:
    """Alpha, blurred; the outside of the picture has the alpha of its rim."""
    image = Image.fromarray((alpha * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(width))
    return np.asarray(image).astype(np.float32) / np.float32(255)
