"""Heat maps of concepts over photos as one picture: a row for each photo, a column for each concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageColor, ImageDraw, ImageFont
from torch import Tensor

from objemb.ops.grid import Grid
from objemb.ops.heat import spread
from objemb.structures import Box, Photo
from objemb.visualize.pictures import COLOURS

BACKGROUND, INK = (250, 250, 248), (28, 28, 26)
SIDE, GAP, LINE = 240, 8, 22
#: Brightness of a photo under its heat map.
DIMMED = 0.55


@dataclass(frozen=True, eq=False)
class HeatRow:
    """A photo with the heat map of each concept.

    Attributes:
        photo: The photo.
        heat: float ``(k, h, w)``, not negative.
        grid: The positions of the cells on the photo.
        title: A line above the row.
        box: The box of the object, in original pixels; None for no box.
    """

    photo: Photo
    heat: Tensor
    grid: Grid
    title: str
    box: Box | None = None


def heat_sheet(rows: Sequence[HeatRow], chosen: int | None = None) -> Image.Image:
    """An RGB picture. A concept has the same colour and scale in all rows, so that photos without it stay dark.

    Args:
        rows: Rows of one joint factorisation, with the same concepts, each of which is above 0 somewhere.
        chosen: Index of the concept whose column is framed.
    """
    concepts = len(rows[0].heat) if rows else 0
    most = torch.stack([row.heat.flatten(1).amax(dim=1) for row in rows]).amax(dim=0) if concepts else torch.zeros(0)
    lines = [_pictures(row, most) for row in rows]
    height = GAP + sum(LINE + line[0].height + GAP for line in lines)
    sheet = Image.new("RGB", (GAP + (concepts + 1) * (SIDE + GAP), height), BACKGROUND)
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    top = GAP
    for row, line in zip(rows, lines, strict=True):
        pen.text((GAP, top), "".join(c if c.isprintable() else "?" for c in row.title), INK, font)
        top += LINE
        for column, picture in enumerate(line):
            left = GAP + column * (SIDE + GAP)
            sheet.paste(picture, (left, top))
            if chosen is not None and column == chosen + 1:
                edge = (left - 3, top - 3, left + picture.width + 2, top + picture.height + 2)
                pen.rectangle(edge, outline=INK, width=3)
        top += line[0].height + GAP
    return sheet


def _pictures(row: HeatRow, most: Tensor) -> list[Image.Image]:
    """The photo with its box, then dimmed with the heat map of each concept."""
    plain = Image.fromarray(row.photo.interleaved())
    factor = SIDE / max(plain.size)
    plain = plain.resize((max(1, round(plain.width * factor)), max(1, round(plain.height * factor))))
    heat = (
        spread(row.heat, row.grid, row.photo.size, (plain.height, plain.width))
        / most.cpu().clamp_min(1e-12)[:, None, None]
    )
    grey = np.asarray(plain.convert("L"), dtype=np.float32)[:, :, None] * DIMMED
    overlays = []
    for number, share in enumerate(heat.numpy()):
        colour = np.array(ImageColor.getrgb(COLOURS[number % len(COLOURS)]), dtype=np.float32)
        mixed = grey * (1 - share[:, :, None]) + colour * share[:, :, None]
        overlays.append(Image.fromarray(mixed.astype(np.uint8)))
    return [_framed(plain, row), *overlays]


def _framed(picture: Image.Image, row: HeatRow) -> Image.Image:
    if row.box is None:
        return picture
    height, width = row.photo.size
    x1, y1, x2, y2 = (
        min(round(v * limit / side), limit - 1)
        for v, limit, side in zip(row.box, picture.size * 2, (width, height) * 2, strict=True)
    )
    framed = picture.copy()
    pen = ImageDraw.Draw(framed)
    pen.rectangle((x1, y1, x2, y2), outline="black", width=5)
    pen.rectangle((x1 + 1, y1 + 1, max(x1 + 1, x2 - 1), max(y1 + 1, y2 - 1)), outline="white", width=2)
    return framed
