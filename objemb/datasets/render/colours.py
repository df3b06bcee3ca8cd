"""Colours of packages: few, saturated, and distinct from each other."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from objemb.images.pixels import LUMA

#: Red, green and blue, 0 to 255.
Colour: TypeAlias = tuple[int, int, int]

#: Step of the hue; multiples of it keep far apart from each other (the golden ratio).
GOLDEN_STEP = 0.381966
LIGHT, DARK = (248, 246, 240), (34, 32, 38)


@dataclass(frozen=True)
class Palette:
    """The base colours that all products of a family share.

    Attributes:
        ground: Colour of most of the surface.
        pattern: Colour of the pattern on the ground; similar to it, so that the print is legible.
        panel: Colour behind the print.
        cap: Colour of lids and caps.
    """

    ground: Colour
    pattern: Colour
    panel: Colour
    cap: Colour


def from_hsv(hue: float, saturation: float, value: float) -> Colour:
    """The colour of a hue, saturation and value, each from 0 to 1; hues wrap around."""
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def luminance(colour: Colour) -> float:
    """Perceived brightness, 0 to 255 (ITU-R BT.601 luma)."""
    return sum(weight * value for weight, value in zip(LUMA, colour, strict=True))


def ink_on(colour: Colour) -> Colour:
    """Dark or light, whichever is legible on a colour."""
    return DARK if luminance(colour) > 130 else LIGHT


def mix(one: Colour, other: Colour, share: float) -> Colour:
    """Linear interpolation from one colour to the other, ``share`` from 0 to 1."""
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(one, other, strict=True))
    return red, green, blue


def make_palette(rng: np.random.Generator) -> Palette:
    """Base colours: a coloured, pale or dark ground, and a panel that stands out from it."""
    hue = float(rng.random())
    kind = rng.choice(("colour", "pale", "dark"), p=(0.6, 0.22, 0.18))
    saturation, value = {
        "colour": (rng.uniform(0.55, 0.95), rng.uniform(0.5, 0.92)),
        "pale": (rng.uniform(0.04, 0.22), rng.uniform(0.86, 0.97)),
        "dark": (rng.uniform(0.25, 0.7), rng.uniform(0.16, 0.34)),
    }[str(kind)]
    ground = from_hsv(hue, saturation, value)
    second = from_hsv(hue + rng.choice((0.06, -0.06, 0.12, 0.5)), rng.uniform(0.4, 0.9), rng.uniform(0.4, 0.95))
    panel = (LIGHT if luminance(ground) < 150 else mix(second, DARK, 0.25)) if rng.random() < 0.7 else second
    cap = rng.choice(np.array([LIGHT, DARK, second, mix(ground, DARK, 0.45)]))
    return Palette(ground, mix(ground, second, rng.uniform(0.3, 0.75)), panel, (int(cap[0]), int(cap[1]), int(cap[2])))


def make_accents(rng: np.random.Generator, start: float, variant: int) -> tuple[Colour, Colour]:
    """The two accent colours of a variant; the variants of a family differ widely in hue."""
    hue = start + variant * GOLDEN_STEP + rng.uniform(-0.04, 0.04)
    first = from_hsv(hue, rng.uniform(0.7, 1.0), rng.uniform(0.65, 1.0))
    return first, from_hsv(hue + rng.uniform(0.3, 0.6), rng.uniform(0.5, 1.0), rng.uniform(0.35, 1.0))
