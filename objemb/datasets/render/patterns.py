"""Patterns that cover a surface. All lengths are fractions of its height, so that they look the same at any size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageDraw

from objemb.datasets.render.colours import Colour

#: Draws on a whole RGB image in one colour.
Pattern = Callable[[Image.Image, Colour, np.random.Generator], None]


def _plain(image: Image.Image, colour: Colour, rng: np.random.Generator) -> None:
    """Two tones, divided at some height."""
    top = image.height * rng.uniform(0.45, 0.75)
    slant = image.height * rng.uniform(-0.12, 0.12)
    w, h = image.size
    ImageDraw.Draw(image).polygon([(0, top), (w, top + slant), (w, h), (0, h)], fill=colour)


def _fade(image: Image.Image, colour: Colour, rng: np.random.Generator) -> None:
    """From the ground to the colour, top to bottom or bottom to top."""
    ramp = Image.linear_gradient("L").resize(image.size)
    if rng.random() < 0.5:
        ramp = ramp.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    image.paste(colour, (0, 0, *image.size), ramp)


def _stripes(image: Image.Image, colour: Colour, rng: np.random.Generator) -> None:
    """Straight stripes at one of four angles."""
    w, h = image.size
    angle = math.radians(rng.choice((0, 35, 90, 145)) + rng.uniform(-5, 5))
    step, share = h * rng.uniform(0.09, 0.2), rng.uniform(0.3, 0.6)
    along, across = np.array([math.cos(angle), math.sin(angle)]), np.array([-math.sin(angle), math.cos(angle)])
    reach, pen = w + h, ImageDraw.Draw(image)
    for number in range(-math.ceil(reach / step), math.ceil(reach / step) + 1):
        middle = np.array([w / 2, h / 2]) + across * number * step
        ends = [tuple(middle - along * reach), tuple(middle + along * reach)]
        pen.line(ends, fill=colour, width=max(2, round(step * share)))


def _dots(image: Image.Image, colour: Colour, rng: np.random.Generator) -> None:
    """Dots in staggered rows."""
    w, h = image.size
    step = h * rng.uniform(0.08, 0.16)
    radius, pen = step * rng.uniform(0.22, 0.42), ImageDraw.Draw(image)
    for row in range(math.ceil(h / step) + 1):
        for column in range(math.ceil(w / step) + 1):
            x, y = (column + 0.5 * (row % 2)) * step, row * step
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)


def _checks(image: Image.Image, colour: Colour, rng: np.random.Generator) -> None:
    """A chess board."""
    w, h = image.size
    step, pen = h * rng.uniform(0.07, 0.15), ImageDraw.Draw(image)
    for row in range(math.ceil(h / step)):
        for column in range(row % 2, math.ceil(w / step), 2):
            pen.rectangle((column * step, row * step, (column + 1) * step, (row + 1) * step), fill=colour)


def _waves(image: Image.Image, colour: Colour, rng: np.random.Generator) -> None:
    """Wavy lines, or zigzags, one below the other."""
    w, h = image.size
    step, length = h * rng.uniform(0.1, 0.2), h * rng.uniform(0.2, 0.45)
    x = np.arange(0, w + 8, max(1.0, h / 64))
    phase = x / length
    swing = np.sin(2 * math.pi * phase) if rng.random() < 0.5 else 4 * np.abs(phase % 1 - 0.5) - 1
    width, pen = max(2, round(step * rng.uniform(0.25, 0.5))), ImageDraw.Draw(image)
    for row in range(math.ceil(h / step) + 2):
        y = row * step + swing * step * 0.4
        pen.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=colour, width=width)


def _rays(image: Image.Image, colour: Colour, rng: np.random.Generator) -> None:
    """Rays from a point."""
    w, h = image.size
    centre = (w * rng.uniform(0.3, 0.7), h * rng.uniform(0.35, 1.0))
    count, reach, pen = int(rng.integers(7, 14)), 2.0 * (w + h), ImageDraw.Draw(image)
    for number in range(count):
        start, end = (2 * math.pi * (number + part) / count for part in (0.0, 0.5))
        tips = [(centre[0] + reach * math.cos(a), centre[1] + reach * math.sin(a)) for a in (start, end)]
        pen.polygon([centre, *tips], fill=colour)


def _blotches(image: Image.Image, colour: Colour, rng: np.random.Generator) -> None:
    """Overlapping rings and discs."""
    w, h = image.size
    pen = ImageDraw.Draw(image)
    for _ in range(int(rng.integers(8, 15))):
        x, y, radius = rng.uniform(0, w), rng.uniform(0, h), h * rng.uniform(0.03, 0.13)
        box = (x - radius, y - radius, x + radius, y + radius)
        if rng.random() < 0.6:
            pen.ellipse(box, fill=colour)
        else:
            pen.ellipse(box, outline=colour, width=max(2, round(radius * 0.35)))


PATTERNS: Mapping[str, Pattern] = MappingProxyType(
    {
        "plain": _plain,
        "fade": _fade,
        "stripes": _stripes,
        "dots": _dots,
        "checks": _checks,
        "waves": _waves,
        "rays": _rays,
        "blotches": _blotches,
    }
)
