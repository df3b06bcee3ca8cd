"""The marks that distinguish the variants of a product: emblems and illegible writing.

Writing consists of strokes on a small grid, because fonts are rendered differently on different machines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import ImageDraw

from objemb.datasets.render.colours import Colour
from objemb.structures import Box

#: Kinds of emblems; variants of a family have different ones.
EMBLEMS = (
    "disc",
    "star",
    "ring",
    "triangle",
    "cross",
    "crescent",
    "diamond",
    "drop",
    "bars",
    "flower",
    "hexagon",
    "arrow",
)
_GLYPH_NODES = [(x, y) for y in range(3) for x in range(2)]
_GLYPH_STROKES = [(a, b) for a in range(6) for b in range(a + 1, 6)]
#: Width of a glyph and the gap after it, divided by its height.
GLYPH_PITCH = 0.72


def draw_emblem(
    pen: ImageDraw.ImageDraw, kind: str, centre: tuple[float, float], radius: float, colours: Sequence[Colour]
) -> None:
    """Draw an emblem in two colours.

    Args:
        pen: Draws on an RGB image.
        kind: One of :data:`EMBLEMS`.
        centre: ``(x, y)`` in pixels.
        radius: Radius of the circumscribed circle in pixels.
        colours: Colours of the shape, and of the details on it.
    """
    x, y = centre
    first, second = colours

    def disc(radius: float, colour: Colour, dx: float = 0.0, dy: float = 0.0) -> None:
        pen.ellipse((x + dx - radius, y + dy - radius, x + dx + radius, y + dy + radius), fill=colour)

    def shape(points: Sequence[tuple[float, float]], colour: Colour, size: float = 1.0) -> None:
        pen.polygon([(x + px * radius * size, y + py * radius * size) for px, py in points], fill=colour)

    if kind == "disc":
        disc(radius, first)
        disc(radius * 0.45, second)
    elif kind == "star":
        shape(_star(5, 0.42), first)
    elif kind == "ring":
        disc(radius, first)
        disc(radius * 0.66, second)
        disc(radius * 0.34, first)
    elif kind == "triangle":
        shape(_star(3, 0.5), first)
        shape(_star(3, 0.5), second, 0.45)
    elif kind == "cross":
        shape([(-0.33, -1), (0.33, -1), (0.33, 1), (-0.33, 1)], first)
        shape([(-1, -0.33), (1, -0.33), (1, 0.33), (-1, 0.33)], first)
    elif kind == "crescent":
        disc(radius, first)
        disc(radius * 0.8, second, dx=radius * 0.38, dy=-radius * 0.12)
    elif kind == "diamond":
        shape([(0, -1), (0.8, 0), (0, 1), (-0.8, 0)], first)
        shape([(0, -1), (0.8, 0), (0, 1), (-0.8, 0)], second, 0.5)
    elif kind == "drop":
        disc(radius * 0.68, first, dy=radius * 0.32)
        shape([(0, -1.05), (0.6, 0.05), (-0.6, 0.05)], first)
        disc(radius * 0.28, second, dx=-radius * 0.15, dy=radius * 0.4)
    elif kind == "bars":
        for number, colour in enumerate((first, second, first)):
            top = -0.9 + 0.65 * number
            shape([(-1, top), (1, top - 0.15), (1, top + 0.3), (-1, top + 0.45)], colour)
    elif kind == "flower":
        for turn in range(6):
            angle = math.pi * turn / 3
            disc(radius * 0.36, first, dx=radius * 0.62 * math.cos(angle), dy=radius * 0.62 * math.sin(angle))
        disc(radius * 0.36, second)
    elif kind == "hexagon":
        shape(_star(6, 0.866), first)
        shape(_star(4, 0.4), second, 0.7)
    elif kind == "arrow":
        shape([(-1, -0.35), (0.1, -0.35), (0.1, -0.9), (1, 0), (0.1, 0.9), (0.1, 0.35), (-1, 0.35)], first)


def _star(points: int, inner: float) -> list[tuple[float, float]]:
    """Corners of a star with its outer points on the unit circle; a convex polygon if ``inner`` is large."""
    turns = [math.pi * (n / points - 0.5) for n in range(2 * points)]
    return [(r * math.cos(t), r * math.sin(t)) for t, r in zip(turns, [1.0, inner] * points, strict=True)]


def draw_word(
    pen: ImageDraw.ImageDraw, box: Box, colour: Colour, rng: np.random.Generator, weight: float = 0.17
) -> None:
    """Draw a word of random glyphs, as high as the box, centred in it, and at most as wide.

    Args:
        pen: Draws on an RGB image.
        box: The box in pixels.
        colour: Colour of the strokes.
        rng: Source of the glyphs.
        weight: Width of the strokes as a fraction of the height.
    """
    x1, y1, x2, y2 = box
    height = y2 - y1
    fitting = max(1, int((x2 - x1) / (GLYPH_PITCH * height)))
    count = max(1, int(fitting * rng.uniform(0.65, 1.0)))
    left = (x1 + x2 - count * GLYPH_PITCH * height) / 2
    for number in range(count):
        _draw_glyph(pen, (left + number * GLYPH_PITCH * height, y1), height, colour, rng, weight)


def _draw_glyph(
    pen: ImageDraw.ImageDraw,
    corner: tuple[float, float],
    height: float,
    colour: Colour,
    rng: np.random.Generator,
    weight: float,
) -> None:
    """Draw three to five strokes between the nodes of a 2 x 3 grid."""
    width, stroke = height * (GLYPH_PITCH - 0.22), max(1, round(height * weight))
    for pick in rng.choice(len(_GLYPH_STROKES), size=int(rng.integers(3, 6)), replace=False):
        ends = [_GLYPH_NODES[node] for node in _GLYPH_STROKES[pick]]
        pen.line([(corner[0] + x * width, corner[1] + y * height / 2) for x, y in ends], fill=colour, width=stroke)


def draw_lines(pen: ImageDraw.ImageDraw, box: Box, colour: Colour, rng: np.random.Generator) -> None:
    """Draw a paragraph of two or three lines, too small for letters, as rows of dashes."""
    x1, y1, x2, y2 = box
    count = int(rng.integers(2, 4))
    pitch = (y2 - y1) / count
    for row in range(count):
        x, end = x1, x1 + (x2 - x1) * (rng.uniform(0.45, 0.9) if row == count - 1 else 1.0)
        while x < end:
            length = min(end - x, pitch * rng.uniform(0.5, 2.2))
            pen.rectangle((x, y1 + (row + 0.2) * pitch, x + length, y1 + (row + 0.7) * pitch), fill=colour)
            x += length + pitch * 0.45
