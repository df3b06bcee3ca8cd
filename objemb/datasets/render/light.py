"""Light on a scene, as coarse random fields that are interpolated smoothly, and sensor noise."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from objemb.types import Float32Array


def smooth_field(values: Float32Array, size: tuple[int, int]) -> Float32Array:
    """Coarse values ``(rows, columns)`` interpolated smoothly to ``(height, width)``, float32."""
    image = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))


def light_field(rng: np.random.Generator, size: tuple[int, int], strength: float) -> Float32Array:
    """A ramp across the scene, soft patches of shade, and sometimes a bright spot, around 1: float32 ``(h, w)``."""
    cells = 8
    y, x = np.mgrid[-1 : 1 : cells * 1j, -1 : 1 : cells * 1j].astype(np.float32)
    turn = rng.uniform(0, 2 * math.pi)
    field = 1 + strength * rng.uniform(0, 0.8) * (math.cos(turn) * x + math.sin(turn) * y)
    if rng.random() < 0.4:
        field -= strength * rng.uniform(0.2, 0.6) * (rng.random((cells, cells), dtype=np.float32) > 0.8)
    if rng.random() < 0.3:
        middle_x, middle_y = rng.uniform(-1, 1, 2)
        field += strength * rng.uniform(0.2, 0.6) * np.exp(-((x - middle_x) ** 2 + (y - middle_y) ** 2) / 0.35)
    return np.maximum(smooth_field(field * rng.uniform(1 - 0.5 * strength, 1 + 0.25 * strength), size), 0.1)


def cast(rng: np.random.Generator, strength: float) -> Float32Array:
    """The colour of the light, warm or cold, as three factors around 1."""
    warmth = strength * rng.uniform(-0.25, 0.25)
    return np.array([1 + warmth, 1 + strength * rng.uniform(-0.05, 0.05), 1 - warmth], dtype=np.float32)


def glare(rng: np.random.Generator, size: tuple[int, int]) -> Float32Array:
    """A reflection on foil or glass: a bright streak or spot, 0 to about 1, float32 ``(h, w)``."""
    y, x = np.mgrid[-1:1:16j, -1:1:16j].astype(np.float32)
    turn = rng.uniform(0, math.pi)
    across = math.cos(turn) * x + math.sin(turn) * y - rng.uniform(-0.6, 0.6)
    along = -math.sin(turn) * x + math.cos(turn) * y - rng.uniform(-0.6, 0.6)
    length = rng.choice((0.15, 3.0))
    return np.clip(smooth_field(np.exp(-(across**2) / 0.03 - along**2 / length), size), 0, 1)


def add_noise(canvas: Float32Array, rng: np.random.Generator, deviation: float) -> None:
    """Add independent noise of a given standard deviation to each value: the sum of two uniform numbers."""
    width = deviation * math.sqrt(6)
    noise = rng.integers(0, 256, (2, *canvas.shape), dtype=np.uint8)
    canvas += (noise[0].astype(np.float32) + noise[1] - 255) * (width / 255)
