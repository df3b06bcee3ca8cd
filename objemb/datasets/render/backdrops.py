"""Backgrounds of scenes: a shelf or a surface, and clutter that does not belong to any product."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from objemb.datasets.render.colours import DARK, LIGHT, Colour, from_hsv, mix
from objemb.datasets.render.marks import draw_word
from objemb.datasets.render.pasting import to_planes
from objemb.types import Float32Array

SHELF_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Backdrop:
    """An empty scene.

    Attributes:
        canvas: float32 ``(3, side, side)``, 0 to 255.
        floors: Rows on which objects stand, from top to bottom; empty if they may lie anywhere.
        gap: Free height above a floor, in pixels.
    """

    canvas: Float32Array
    floors: tuple[float, ...]
    gap: float


def make_backdrop(rng: np.random.Generator, side: int, clutter: float) -> Backdrop:
    """Draw an empty scene.

    Args:
        rng: Source of all randomness.
        side: Side of the scene in pixels.
        clutter: Amount of clutter, 0 to 1.
    """
    wall = from_hsv(rng.random(), rng.uniform(0, 0.55), rng.uniform(0.25, 0.95))
    image = _surface(rng, side, wall)
    _add_clutter(image, rng, round(clutter * rng.integers(0, 9)))
    image = image.resize((side, side), Image.Resampling.BICUBIC)  # the background is out of focus
    floors: tuple[float, ...] = ()
    gap = float(side)
    if rng.random() < SHELF_SHARE:
        floors, gap = _shelf(image, rng, wall)
    _add_clutter(image, rng, round(clutter * rng.integers(0, 9)))
    return Backdrop(to_planes(image), floors, gap)


def _surface(rng: np.random.Generator, side: int, colour: Colour) -> Image.Image:
    """A wall or a table top at half the size, of uneven colour, with planks, tiles or grain."""
    coarse = np.array(colour) + rng.normal(0, 7, (6, 6, 3)) + rng.normal(0, 16, (6, 6, 1))
    half = max(2, side // 2)
    image = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize((half, half), Image.Resampling.BICUBIC)
    kind = rng.choice(("bare", "planks", "tiles", "grain"))
    pen, seam = ImageDraw.Draw(image), mix(colour, DARK, rng.uniform(0.15, 0.4))
    if kind in ("planks", "tiles"):
        step = half * rng.uniform(0.1, 0.35)
        slant = half * rng.uniform(-0.15, 0.15)
        for number in range(-1, math.ceil(half / step) + 2):
            pen.line([(0, number * step), (half, number * step + slant)], fill=seam)
            if kind == "tiles":
                pen.line([(number * step, 0), (number * step - slant, half)], fill=seam)
    elif kind == "grain":
        streaks = rng.normal(0, 10, (half, 1, 1) if rng.random() < 0.5 else (1, half, 1))
        image = Image.fromarray(np.clip(np.asarray(image) + streaks, 0, 255).astype(np.uint8))
    return image


def _shelf(image: Image.Image, rng: np.random.Generator, wall: Colour) -> tuple[tuple[float, ...], float]:
    """Draw boards with their shadows and price tags; returns the floors and the gap above each."""
    side = image.width
    count = int(rng.integers(1, 3))
    gap = side / count
    colour = mix(wall, LIGHT if rng.random() < 0.6 else DARK, rng.uniform(0.4, 0.8))
    thickness = side * rng.uniform(0.03, 0.06)
    shift = rng.uniform(-0.03, 0.0) * side
    floors = tuple((number + 1) * gap - 1.4 * thickness + shift for number in range(count))
    pen = ImageDraw.Draw(image)
    for floor in floors:
        front = floor + 0.35 * thickness
        pen.rectangle((0, floor - 0.4 * thickness, side, front), fill=mix(colour, DARK, 0.3))
        pen.rectangle((0, front, side, front + thickness), fill=colour)
        pen.rectangle((0, front + thickness, side, front + 1.5 * thickness), fill=mix(wall, DARK, 0.6))
        for x in rng.uniform(0, side, int(rng.integers(0, 4))).tolist():
            width = side * rng.uniform(0.06, 0.11)
            pen.rectangle((x, front, x + width, front + thickness), fill=LIGHT)
            word = (x + 1, front + 0.25 * thickness, x + width - 1, front + 0.8 * thickness)
            draw_word(pen, word, DARK, rng)
    return floors, gap - 2 * thickness


def _add_clutter(image: Image.Image, rng: np.random.Generator, count: int) -> None:
    """Draw lines, shapes and scraps of writing at random positions."""
    pen = ImageDraw.Draw(image)
    for _ in range(count):
        colour = from_hsv(rng.random(), rng.uniform(0, 0.9), rng.uniform(0.15, 0.95))
        x, y = rng.uniform(-0.05, 1.05, 2) * image.width
        draw_scrap(pen, rng, (x, y), image.width * rng.uniform(0.03, 0.16), colour)


def draw_scrap(
    pen: ImageDraw.ImageDraw, rng: np.random.Generator, centre: tuple[float, float], radius: float, colour: Colour
) -> None:
    """Draw a piece of clutter: a stick, a curve, a disc, a splinter or a word."""
    x, y = centre
    kind = rng.choice(("stick", "curve", "disc", "splinter", "splinter", "word"))
    box = (x - radius, y - radius * rng.uniform(0.4, 1), x + radius, y + radius * rng.uniform(0.4, 1))
    width = max(1, round(radius * rng.uniform(0.06, 0.3)))
    if kind == "stick":
        turn = rng.uniform(0, math.pi)
        dx, dy = 2 * radius * math.cos(turn), 2 * radius * math.sin(turn)
        pen.line([(x - dx, y - dy), (x + dx, y + dy)], fill=colour, width=width)
    elif kind == "curve":
        start = rng.uniform(0, 360)
        pen.arc(box, start, start + rng.uniform(90, 300), fill=colour, width=width)
    elif kind == "disc":
        pen.ellipse(box, fill=colour)
    elif kind == "word":
        draw_word(pen, (x - radius, y - radius / 4, x + radius, y + radius / 4), colour, rng)
    else:
        turns = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(3, 7))))
        reach = radius * rng.uniform(0.4, 1.2, len(turns))
        pen.polygon(
            [(x + r * math.cos(t), y + r * math.sin(t)) for t, r in zip(turns, reach, strict=True)], fill=colour
        )


def make_occluder(rng: np.random.Generator, side: int) -> Image.Image:
    """An object that hides parts of products: RGBA, ``side`` by ``side``."""
    picture = Image.new("RGBA", (side, side))
    pen = ImageDraw.Draw(picture)
    colour = from_hsv(rng.random(), rng.uniform(0, 0.8), rng.uniform(0.15, 0.9))
    if rng.random() < 0.35:
        top = side * rng.uniform(0.3, 0.45)
        pen.rectangle((0, top, side, side - top), fill=colour)
        pen.rectangle((0, top, side, top + 0.06 * side), fill=mix(colour, LIGHT, 0.4))
    else:
        turns = np.sort(rng.uniform(0, 2 * math.pi, int(rng.integers(5, 10))))
        reach = side * rng.uniform(0.25, 0.5, len(turns))
        pairs = zip(turns.tolist(), reach.tolist(), strict=True)
        pen.polygon([(side / 2 + r * math.cos(t), side / 2 + r * math.sin(t)) for t, r in pairs], fill=colour)
        draw_scrap(pen, rng, (side / 2, side / 2), 0.2 * side, mix(colour, DARK, 0.4))
    return picture


def make_piece(rng: np.random.Generator, photo: Image.Image) -> Image.Image:
    """A piece of a photo with a random outline, round, angular or rectangular: RGBA of the photo's size."""
    width, height = photo.size
    outline = Image.new("L", photo.size)
    pen = ImageDraw.Draw(outline)
    half_x, half_y = width / 2 * rng.uniform(0.5, 1.0), height / 2 * rng.uniform(0.5, 1.0)
    kind = rng.choice(("rectangle", "ellipse", "polygon"))
    box = (width / 2 - half_x, height / 2 - half_y, width / 2 + half_x, height / 2 + half_y)
    if kind == "rectangle":
        pen.rounded_rectangle(box, radius=min(half_x, half_y) * rng.uniform(0, 0.5), fill=255)
    elif kind == "ellipse":
        pen.ellipse(box, fill=255)
    else:
        turns = (np.arange(9) + rng.uniform(-0.4, 0.4, 9)) * 2 * math.pi / 9
        reach = rng.uniform(0.6, 1.0, 9)
        points = [
            (width / 2 + half_x * r * math.cos(t), height / 2 + half_y * r * math.sin(t))
            for t, r in zip(turns.tolist(), reach.tolist(), strict=True)
        ]
        pen.polygon(points, fill=255)
    piece = photo.convert("RGBA")
    piece.putalpha(outline)
    return piece.crop(outline.getbbox() or (0, 0, width, height))
