"""A preview of some scenes."""

from __future__ import annotations

import hashlib
import math

from PIL import Image, ImageDraw, ImageFont

from objemb.datasets.render.colours import Colour, from_hsv
from objemb.datasets.scene import Scene, SceneSource

GAP = 6


def preview_sheet(scenes: SceneSource, count: int = 12, side: int = 320) -> Image.Image:
    """The first scenes with their boxes and instance names, in rows of four; an instance has one colour throughout.

    Args:
        scenes: At least one scene.
        count: Maximum number of scenes.
        side: Side of a scene on the sheet, in pixels.
    """
    count = min(count, len(scenes))
    columns = min(4, count)
    rows = math.ceil(count / columns)
    sheet = Image.new("RGB", (columns * (side + GAP) + GAP, rows * (side + GAP) + GAP), "white")
    for number in range(count):
        row, column = divmod(number, columns)
        sheet.paste(_annotated(scenes[number], side), (GAP + column * (side + GAP), GAP + row * (side + GAP)))
    return sheet


def _annotated(scene: Scene, side: int) -> Image.Image:
    scale = side / max(scene.pixels.shape[:2])
    size = round(scene.pixels.shape[1] * scale), round(scene.pixels.shape[0] * scale)
    image = Image.fromarray(scene.pixels).resize(size, Image.Resampling.LANCZOS)
    pen, font = ImageDraw.Draw(image), ImageFont.load_default(10)
    for box, name in zip(scene.boxes * scale, scene.instances, strict=True):
        corners = [float(edge) for edge in box]
        pen.rectangle(corners, outline=_colour(name), width=2)
        pen.text((corners[0] + 3, corners[1] + 2), name, "white", font, stroke_width=2, stroke_fill="black")
    return image


def _colour(name: str) -> Colour:
    return from_hsv(hashlib.blake2b(name.encode(), digest_size=1).digest()[0] / 256, 0.9, 1.0)
