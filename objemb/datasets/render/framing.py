"""The frame and the plain background of a photo that shows a single picture, such as one from a shop's page."""

from __future__ import annotations

import math

import numpy as np

from objemb.datasets.render.colours import from_hsv
from objemb.datasets.render.light import smooth_field
from objemb.datasets.render.pasting import Card, corner_jitter, place
from objemb.types import Float32Array, Float64Array

#: Fraction of rectangular pictures that fill the frame; the others have a background, as do all with an outline.
FILLING = 0.7
#: A picture that fills the frame exceeds it by this fraction of its sides, so that its rim is not visible.
OVERLAP = (0.01, 0.02)
#: Maximum margin on each side, as a fraction of the picture's sides.
MARGIN = 0.12
#: Maximum rotation in degrees and maximum shift of a corner; both are small, since such photos are taken with care.
TURN, PERSPECTIVE = 6.0, 0.02
#: Minimum side of the photo in pixels.
MIN_SIDE = 32


def frame_alone(rng: np.random.Generator, card: Card, side: int) -> tuple[Float32Array, Float64Array]:
    """The frame of a photo that shows a single picture.

    Args:
        rng: Source of the margins, the rotation and the background.
        card: The picture; the photo has its aspect ratio, apart from the margins.
        side: Longer side of the photo in pixels.

    Returns:
        The empty background, float32 ``(3, height, width)``, and the ``(4, 2)`` corners for ``warp``.
    """
    width, height = (s / max(card.size) for s in card.size)
    if card.coverage == 1 and rng.random() < FILLING:
        quad = place((0, 0), (width, height), 0.0, np.zeros((4, 2)))
        margins = -rng.uniform(*OVERLAP, (2, 2))
    else:
        turn = math.radians(rng.uniform(-TURN, TURN))
        quad = place((0, 0), (width, height), turn, corner_jitter(rng, PERSPECTIVE))
        margins = rng.uniform(0, MARGIN, (2, 2))
    extent = np.ptp(quad, axis=0)
    low, high = quad.min(0) - margins[0] * extent, quad.max(0) + margins[1] * extent
    scale = side / (high - low).max()
    frame = np.maximum(np.rint((high - low) * scale), MIN_SIDE).astype(int)
    quad = (quad - (low + high) / 2) * scale + frame / 2
    return _ground(rng, (int(frame[1]), int(frame[0]))), quad


def _ground(rng: np.random.Generator, size: tuple[int, int]) -> Float32Array:
    """White paper or a plain surface, slightly uneven: float32 ``(3, height, width)``."""
    white = rng.random() < 0.5
    colour = (255, 255, 255) if white else from_hsv(rng.random(), rng.uniform(0, 0.5), rng.uniform(0.15, 0.95))
    uneven = 0.0 if white and rng.random() < 0.5 else rng.uniform(0.5, 5)
    field = smooth_field(rng.normal(0, uneven, (5, 5)).astype(np.float32), size)
    return np.array(colour, dtype=np.float32)[:, None, None] + field
