"""Pastes flat pictures into scenes: in perspective, possibly cut off by the frame, with a shadow."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from objemb.types import BoolArray, Float32Array, Float64Array, Uint8Array

#: Transparent pixels around a card, so that its warped edges are smooth.
MARGIN = 2
#: Alpha from which a pixel belongs to an object's mask.
OPAQUE = 128
#: Cards are halved until the longer side is below this many pixels.
SMALLEST_SIDE = 48


@dataclass(frozen=True, eq=False)
class Card:
    """A flat picture in several sizes, each half of the one before, so that it can be sampled without aliasing.

    Attributes:
        levels: Premultiplied RGBA (Pillow's mode ``RGBa``) with a transparent margin of :data:`MARGIN` pixels.
        size: ``(width, height)`` of the picture.
        coverage: Mean alpha of the picture, 0 to 1.
    """

    levels: tuple[Image.Image, ...]
    size: tuple[int, int]
    coverage: float


@dataclass(frozen=True, eq=False)
class Patch:
    """A picture placed in a scene, cut off at the frame.

    Attributes:
        x: First column in the scene.
        y: First row in the scene.
        colour: float32 ``(3, h, w)``, 0 to 255, premultiplied by alpha. (NumPy is slow on a last axis of length three.)
        alpha: float32 ``(h, w)``, 0 to 1.
        area: Area of the whole picture in pixels of the scene, including the part outside of the frame.
    """

    x: int
    y: int
    colour: Float32Array
    alpha: Float32Array
    area: float

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the scene."""
        h, w = self.alpha.shape
        return slice(self.y, self.y + h), slice(self.x, self.x + w)

    def with_alpha(self, alpha: Float32Array) -> Patch:
        """The same picture with another alpha, which has no effect where the old one is 0."""
        shown = np.where(self.alpha > 0, alpha, 0).astype(np.float32)
        colour = self.colour * (shown / np.maximum(self.alpha, 1e-3))
        return replace(self, colour=colour.astype(np.float32, copy=False), alpha=shown)

    def mask(self, size: tuple[int, int]) -> BoolArray:
        """The opaque part of the picture, bool ``(height, width)`` of the scene."""
        mask = np.zeros(size, dtype=bool)
        mask[self.window] = self.alpha >= OPAQUE / 255
        return mask


def to_planes(image: Image.Image) -> Float32Array:
    """The bands of a picture as float32 ``(bands, h, w)``, 0 to 255."""
    return np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")


def to_pixels(canvas: Float32Array) -> Uint8Array:
    """A canvas ``(3, h, w)``, clipped to 0 to 255, as uint8 ``(h, w, 3)``."""
    return np.ascontiguousarray(np.clip(canvas, 0, 255).astype(np.uint8).transpose(1, 2, 0))


def card_of(picture: Image.Image) -> Card:
    """A card of an RGBA picture."""
    width, height = picture.size
    padded = Image.new("RGBA", (width + 2 * MARGIN, height + 2 * MARGIN))
    padded.paste(picture, (MARGIN, MARGIN))
    levels = [padded.convert("RGBa")]
    while max(levels[-1].size) >= 2 * SMALLEST_SIDE:
        levels.append(levels[-1].reduce(2))
    return Card(tuple(levels), (width, height), float(np.asarray(picture.getchannel("A")).mean()) / 255)


def place(centre: tuple[float, float], size: tuple[float, float], angle: float, jitter: Float64Array) -> Float64Array:
    """Corners of a card in a scene: upper left, upper right, lower right, lower left of the card.

    Args:
        centre: ``(x, y)``.
        size: ``(width, height)`` in pixels of the scene.
        angle: Rotation in radians, clockwise.
        jitter: ``(4, 2)``, shift of each corner as a fraction of the width and the height.

    Returns:
        float64 ``(4, 2)``.
    """
    corners = (np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]) + jitter) * size
    cos, sin = math.cos(angle), math.sin(angle)
    turned: Float64Array = corners @ np.array([[cos, sin], [-sin, cos]]) + np.array(centre)
    return turned


def corner_jitter(rng: np.random.Generator, most: float) -> Float64Array:
    """Random shifts ``(4, 2)`` of the corners for :func:`place`, each up to ``most``."""
    return rng.uniform(-most, most, (4, 2))


def homography(quad: Float64Array, corners: Float64Array) -> Float64Array:
    """The eight coefficients of the homography between two quadrilaterals, as ``Image.transform`` expects them.

    ``(x, y)`` becomes ``((a x + b y + c) / (g x + h y + 1), (d x + e y + f) / (g x + h y + 1))``.

    Args:
        quad: ``(4, 2)`` corners in the output.
        corners: ``(4, 2)``, the same corners in the input.
    """
    x, y = quad.T
    u, v = corners.T
    one, zero = np.ones(4), np.zeros(4)
    rows = np.concatenate(
        [
            np.stack([x, y, one, zero, zero, zero, -x * u, -y * u], axis=1),
            np.stack([zero, zero, zero, x, y, one, -x * v, -y * v], axis=1),
        ]
    )
    return np.linalg.solve(rows, np.concatenate([u, v]))


def warp(card: Card, quad: Float64Array, size: tuple[int, int]) -> Patch:
    """Warp a card so that its corners lie on a quadrilateral.

    Args:
        card: The card.
        quad: ``(4, 2)`` from :func:`place`; convex.
        size: ``(height, width)`` of the scene.
    """
    x1, y1 = np.maximum(np.floor(quad.min(0)) - 1, 0).astype(int)
    x2, y2 = np.minimum(np.ceil(quad.max(0)) + 1, (size[1], size[0])).astype(int)
    level = _level(card, quad)
    image, factor = card.levels[level], 2**level
    m, w, h = MARGIN / factor, card.size[0] / factor, card.size[1] / factor
    corners = np.array([(m, m), (m + w, m), (m + w, m + h), (m, m + h)])
    window = (max(0, int(x2 - x1)), max(0, int(y2 - y1)))
    if 0 in window:
        return Patch(int(x1), int(y1), np.zeros((3, 0, 0), np.float32), np.zeros((0, 0), np.float32), 0.0)
    data = homography(quad - (x1, y1), corners).tolist()
    warped = image.transform(window, Image.Transform.PERSPECTIVE, data, Image.Resampling.BILINEAR)
    planes = to_planes(warped)
    return Patch(int(x1), int(y1), planes[:3], planes[3] / 255, card.coverage * _area(quad))


def _level(card: Card, quad: Float64Array) -> int:
    """The smallest level that is not smaller than the quadrilateral."""
    sides = np.linalg.norm(quad - np.roll(quad, 1, axis=0), axis=1).max()
    shrink = max(card.size) / max(float(sides), 1.0)
    return min(len(card.levels) - 1, max(0, math.floor(math.log2(max(shrink, 1.0)))))


def _area(quad: Float64Array) -> float:
    """Area of a polygon (the shoelace formula)."""
    x, y = quad.T
    return 0.5 * abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1)))


def paste(canvas: Float32Array, patch: Patch) -> None:
    """Paste a patch onto a float32 ``(3, H, W)`` canvas."""
    under = canvas[:, *patch.window]
    under *= 1 - patch.alpha
    under += patch.colour


def cast_shadow(
    canvas: Float32Array, patch: Patch, offset: tuple[float, float], softness: float, strength: float
) -> None:
    """Darken a canvas by the shadow of a patch: its alpha, shifted and blurred.

    Args:
        canvas: float32 ``(3, H, W)``.
        patch: The patch that casts the shadow.
        offset: Shift ``(x, y)`` in pixels.
        softness: Width of the blur in pixels.
        strength: Fraction of the light that is blocked, 0 to 1.
    """
    h, w = patch.alpha.shape
    pad, step = math.ceil(2 * softness), max(1.0, softness / 2)
    x1, y1 = patch.x + round(offset[0]) - pad, patch.y + round(offset[1]) - pad
    small = max(1, round((w + 2 * pad) / step)), max(1, round((h + 2 * pad) / step))
    padded = np.zeros((h + 2 * pad, w + 2 * pad), dtype=np.float32)
    padded[pad : pad + h, pad : pad + w] = patch.alpha
    image = Image.fromarray(padded)
    soft = np.asarray(image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BICUBIC))
    top, left = max(0, -y1), max(0, -x1)
    region = canvas[:, max(0, y1) : max(0, y1 + soft.shape[0]), max(0, x1) : max(0, x1 + soft.shape[1])]
    shadow = soft[top : top + region.shape[1], left : left + region.shape[2]]
    region *= 1 - strength * np.clip(shadow, 0, 1)
