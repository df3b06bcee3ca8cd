"""Draws a product as an RGBA picture: its family determines its looks, its variant the print."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from objemb.datasets.render.colours import Colour, Palette, ink_on, luminance, make_accents, make_palette, mix
from objemb.datasets.render.marks import EMBLEMS, draw_emblem, draw_lines, draw_word
from objemb.datasets.render.patterns import PATTERNS
from objemb.datasets.render.silhouettes import SILHOUETTES, Silhouette
from objemb.datasets.seeds import generator
from objemb.structures import Box

#: Products are drawn larger by this factor and then scaled down, so that edges are smooth.
OVERSAMPLING = 2
#: Step between the emblems of successive variants; the variants of a family have different ones.
EMBLEM_STEP = 5
PANELS = ("none", "rectangle", "ellipse", "band")


@dataclass(frozen=True)
class Family:
    """The looks that all variants of a product share.

    Attributes:
        keys: Seed of all random choices.
        silhouette: A name in ``SILHOUETTES``.
        aspect: Width divided by height; differs slightly from that of the silhouette.
        palette: Base colours.
        pattern: A name in ``PATTERNS``.
        panel: Background of the print, one of :data:`PANELS`.
        order: The parts of the print from top to bottom: emblem, word and lines in any order.
        emblem_share: Height of the emblem as a fraction of the print.
        accent_cap: Whether caps and stripes have the accent colour of the variant.
        stripe: Position of a stripe in the accent colour across the body, as a fraction of its height, or None.
        hue: Hue of the first variant's accent colour.
        emblem: Number of the first variant's emblem.
    """

    keys: tuple[int | str, ...]
    silhouette: str
    aspect: float
    palette: Palette
    pattern: str
    panel: str
    order: tuple[str, ...]
    emblem_share: float
    accent_cap: bool
    stripe: float | None
    hue: float
    emblem: int


def make_family(*keys: int | str) -> Family:
    """The family for some keys."""
    rng = generator("family", *keys)
    silhouette = str(rng.choice(list(SILHOUETTES)))
    return Family(
        keys=keys,
        silhouette=silhouette,
        aspect=SILHOUETTES[silhouette].aspect * float(rng.uniform(0.85, 1.18)),
        palette=make_palette(rng),
        pattern=str(rng.choice(list(PATTERNS))),
        panel=str(rng.choice(PANELS, p=(0.2, 0.35, 0.25, 0.2))),
        order=tuple(str(part) for part in rng.permutation(["emblem", "word", "lines"])),
        emblem_share=float(rng.uniform(0.5, 0.64)),
        accent_cap=bool(rng.random() < 0.35),
        stripe=float(rng.choice((0.02, 0.9))) if rng.random() < 0.5 else None,
        hue=float(rng.random()),
        emblem=int(rng.integers(len(EMBLEMS))),
    )


def draw_product(family: Family, variant: int, side: int) -> Image.Image:
    """Draw a product, upright, that fills the picture.

    Args:
        family: Its family.
        variant: Its number in the family.
        side: Longer side of the picture in pixels.

    Returns:
        RGBA; transparent outside of the product.
    """
    height = side if family.aspect <= 1 else side / family.aspect
    size = max(4, round(height * family.aspect)), max(4, round(height))
    large = size[0] * OVERSAMPLING, size[1] * OVERSAMPLING
    silhouette = SILHOUETTES[family.silhouette]
    face = Image.new("RGB", large, family.palette.ground)
    PATTERNS[family.pattern](face, family.palette.pattern, generator("pattern", *family.keys))
    _print(face, family, variant, silhouette)
    face = _shaded(face, silhouette)
    face.putalpha(_outline(silhouette, large))
    return face.resize(size, Image.Resampling.BOX, reducing_gap=None)


def _print(face: Image.Image, family: Family, variant: int, silhouette: Silhouette) -> None:
    """Draw everything that is printed on the ground, and the cap."""
    accent = _accents(family, variant)[0]
    pen = ImageDraw.Draw(face)
    body = _body(silhouette, face.size)
    panel = _draw_panel(pen, family, body)
    if family.stripe is not None:
        height = body[3] - body[1]
        top = body[1] + family.stripe * height
        pen.rectangle((0, top, face.width, top + 0.09 * height), fill=accent)
    if silhouette.cap is not None:
        top, bottom = (round(fraction * face.height) for fraction in silhouette.cap)
        pen.rectangle((0, top, face.width, bottom), fill=accent if family.accent_cap else family.palette.cap)
    _draw_print(pen, family, variant, body, panel)


def _accents(family: Family, variant: int) -> tuple[Colour, Colour]:
    return make_accents(generator("accents", *family.keys, variant), family.hue, variant)


def _body(silhouette: Silhouette, size: tuple[int, int]) -> Box:
    """The printed part, in pixels, slightly inside of the outline."""
    top, bottom = silhouette.body
    half = 0.5 * size[0] * float(silhouette.half_widths(np.linspace(top, bottom, 9)).min()) * 0.9
    return size[0] / 2 - half, top * size[1], size[0] / 2 + half, bottom * size[1]


def _draw_panel(pen: ImageDraw.ImageDraw, family: Family, body: Box) -> Colour:
    """Draw the background of the print; returns its colour."""
    x1, y1, x2, y2 = body
    colour = family.palette.panel
    inset = 0.08 * (y2 - y1)
    if family.panel == "rectangle":
        pen.rounded_rectangle((x1, y1 + inset, x2, y2 - inset), radius=inset, fill=colour)
    elif family.panel == "ellipse":
        pen.ellipse((x1 - inset, y1, x2 + inset, y2), fill=colour)
    elif family.panel == "band":
        pen.rectangle((0, y1 + 1.5 * inset, pen.im.size[0], y2 - 1.5 * inset), fill=colour)
    else:
        return mix(family.palette.ground, family.palette.pattern, 0.5)
    return colour


def _draw_print(pen: ImageDraw.ImageDraw, family: Family, variant: int, body: Box, panel: Colour) -> None:
    """Draw emblem, word and lines in the family's order, below each other or with the emblem beside the writing."""
    rng = generator("variant", *family.keys, variant)
    accents = _accents(family, variant)
    rows = _rows(family, body)
    x1, y1, x2, y2 = rows["emblem"]
    kind = EMBLEMS[(family.emblem + EMBLEM_STEP * variant) % len(EMBLEMS)]
    draw_emblem(pen, kind, ((x1 + x2) / 2, (y1 + y2) / 2), min(x2 - x1, y2 - y1) / 2, accents)
    ink = accents[1] if abs(luminance(accents[1]) - luminance(panel)) > 90 and rng.random() < 0.5 else ink_on(panel)
    draw_word(pen, _word_box(rows["word"]), ink, rng)
    draw_lines(pen, rows["lines"], mix(ink_on(panel), panel, 0.25), rng)


def _rows(family: Family, body: Box) -> dict[str, Box]:
    """The boxes of emblem, word and lines, in pixels."""
    x1, y1, x2, y2 = body
    inset_x, inset_y = 0.08 * (x2 - x1), 0.13 * (y2 - y1)
    x1, y1, x2, y2 = x1 + inset_x, y1 + inset_y, x2 - inset_x, y2 - inset_y
    rows: dict[str, Box] = {}
    order = list(family.order)
    share = family.emblem_share
    if x2 - x1 > 1.2 * (y2 - y1):
        side = min(y2 - y1, 0.58 * (x2 - x1))
        left = family.order[0] == "emblem"
        rows["emblem"] = (x1, y1, x1 + side, y2) if left else (x2 - side, y1, x2, y2)
        x1, x2 = (x1 + 1.15 * side, x2) if left else (x1, x2 - 1.15 * side)
        order.remove("emblem")
        share = 0.0
    shares = {"emblem": share, "word": 0.57 * (1 - share), "lines": 0.43 * (1 - share)}
    y = y1
    for part in order:
        height = shares[part] * (y2 - y1)
        rows[part] = (x1, y + 0.07 * height, x2, y + 0.93 * height)
        y += height
    return rows


def _word_box(row: Box) -> Box:
    """The largest part of a row that has room for at least four glyphs side by side."""
    height = min(row[3] - row[1], (row[2] - row[0]) / 2.9)
    middle = (row[1] + row[3]) / 2
    return row[0], middle - height / 2, row[2], middle + height / 2


def _outline(silhouette: Silhouette, size: tuple[int, int]) -> Image.Image:
    heights = np.linspace(0, 1, 65)
    heights = np.union1d(heights, [y for y, _ in silhouette.profile])
    halves = silhouette.half_widths(heights) * size[0] / 2
    left = np.stack([size[0] / 2 - halves, heights * size[1]], axis=1)
    right = np.stack([size[0] / 2 + halves, heights * size[1]], axis=1)[::-1]
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in (*left, *right)], fill=255)
    return mask


def _shaded(face: Image.Image, silhouette: Silhouette) -> Image.Image:
    """Shade a round or flat body as lit from the upper left, with a shadow below the cap."""
    x = np.linspace(-1, 1, face.width, dtype=np.float32)
    y = np.linspace(0, 1, face.height, dtype=np.float32)[:, None]
    if silhouette.round:
        shade = 0.5 + 0.58 * np.sqrt(1 - 0.94 * x**2) + 0.28 * np.exp(-(((x + 0.42) / 0.13) ** 2))
        shade = shade * (1.03 - 0.08 * y)
    else:
        shade = np.where(x > 0.86, 0.74, 1.04) * (1.04 - 0.14 * y) * np.ones_like(x)
    if silhouette.cap is not None:
        edge = silhouette.cap[1] if silhouette.cap[0] == 0.0 else silhouette.cap[0]
        shade = shade * (1 - 0.35 * np.exp(-(((y - edge) / 0.012) ** 2)))
    lit = np.asarray(face, dtype=np.float32) * shade[:, :, None]
    return Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8))
