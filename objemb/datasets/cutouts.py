"""A product's picture as a cut-out: with its own alpha, with a plain background removed, or unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from objemb import checks
from objemb.images import UnreadableImageError, read_photo
from objemb.ops.masks import box_of
from objemb.types import BoolArray

CUTS = ("auto", "plain", "none")
#: Side at which a background is detected; the mask is then enlarged to the picture's size.
SEARCH_SIDE = 192
#: Least and greatest distance of a background pixel from the background's colour, in grey levels of the worst channel;
#: between them it is as wide as the noise of the rim asks for.
TOLERANCES = (8.0, 24.0)
#: Minimum share of the picture's rim with the background's colour.
PLAIN_RIM = 0.8
#: With ``auto``, a background has to be light and nearly uniform, because tight crops of dark products have plain dark
#: rims.
SURE_RIM, SURE_GREY = 0.9, 110
#: Minimum share of a cut-out that is more than two pixels from its edge, to exclude shreds.
SOLID = 0.6
#: Minimum and maximum share of the picture that a cut-out may fill; otherwise the background was detected wrongly.
CUTOUT_SHARE = (0.05, 0.97)
#: Minimum length of the shorter side of a picture, in pixels.
SMALLEST_SIDE = 12
#: Alpha below this is taken for transparent.
FAINT = 8


def read_cutout(path: str | Path, *, cut: str = "auto", side: int = 512) -> Image.Image:
    """Read the picture of one product.

    Args:
        path: JPEG, PNG, WebP, BMP or TIFF.
        cut: How pictures without alpha are cut out. ``auto``: a plain, light background is removed if it is detected
            with certainty, other pictures stay rectangles; ``plain``: a plain background of any colour is required;
            ``none``: all stay rectangles.
        side: Maximum length of the longer side in pixels; larger pictures are scaled down.

    Returns:
        RGBA, cropped to the pixels that are not transparent.

    Raises:
        UnreadableImageError: The file cannot be read, is too small or transparent, or has no plain background.
    """
    checks.one_of("cut", cut, CUTS)
    photo = read_photo(path, side=side)
    picture = _with_own_alpha(Path(path))
    if picture is None:
        picture = Image.fromarray(photo.interleaved()).convert("RGBA")
        alpha = _without_background(picture, sure=cut == "auto") if cut != "none" else None
        if alpha is not None:
            picture.putalpha(alpha)
        elif cut == "plain":
            raise UnreadableImageError("expected a plain background, found none", str(path))
    x1, y1, x2, y2 = box_of(np.asarray(picture.getchannel("A")) >= FAINT)
    if min(x2 - x1, y2 - y1) < SMALLEST_SIDE:
        found = f"found {x2 - x1} x {y2 - y1}"
        raise UnreadableImageError(
            f"expected at least {SMALLEST_SIDE} pixels that are not transparent, {found}", str(path)
        )
    picture = picture.crop((x1, y1, x2, y2))
    picture.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=None)
    return picture


def _with_own_alpha(path: Path) -> Image.Image | None:
    """The picture, upright, if any of it is transparent."""
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP", "BMP", "TIFF")) as image:
            if not image.has_transparency_data:
                return None
            picture = ImageOps.exif_transpose(image).convert("RGBA")
    except Exception as error:  # decoders raise almost every kind for damaged files
        raise UnreadableImageError(f"cannot read transparency: {error or type(error).__name__}", str(path)) from error
    return picture if np.asarray(picture.getchannel("A")).min() < 255 else None


def _without_background(picture: Image.Image, sure: bool) -> Image.Image | None:
    """The picture with a background of one colour removed, or None if there is no such background."""
    small = picture.convert("RGB")
    small.thumbnail((SEARCH_SIDE, SEARCH_SIDE), Image.Resampling.BOX)
    pixels = np.asarray(small).astype(np.int16)
    rim = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    colour = np.median(rim, axis=0)
    distances = np.abs(rim - colour).max(1)
    tolerance = float(np.clip(6 + 3 * np.median(distances), *TOLERANCES))
    if (distances <= tolerance).mean() < (SURE_RIM if sure else PLAIN_RIM) or (sure and colour.mean() < SURE_GREY):
        return None
    outside = _outside(np.abs(pixels - colour).max(2) <= tolerance)
    mask = Image.fromarray(np.where(outside, 0, 255).astype(np.uint8))
    if not _like_a_product(mask):
        return None
    shaved = mask.filter(ImageFilter.MinFilter(3))  # edge pixels are mixed with the background
    return shaved.resize(picture.size, Image.Resampling.BICUBIC)


def _like_a_product(mask: Image.Image) -> bool:
    """Whether a cut-out is solid and of a plausible size."""
    share = (np.asarray(mask) > 0).mean()
    core = (np.asarray(mask.filter(ImageFilter.MinFilter(5))) > 0).mean()
    return bool(CUTOUT_SHARE[0] <= share <= CUTOUT_SHARE[1] and core >= SOLID * share)


def _outside(free: BoolArray) -> BoolArray:
    """Pixels of the background's colour that are connected to the rim by gaps wider than two pixels."""
    wide = Image.fromarray(np.pad(free, 2, mode="edge")).convert("L").filter(ImageFilter.MinFilter(3))
    reached = Image.fromarray(reachable(np.asarray(wide) > 0)).convert("L").filter(ImageFilter.MaxFilter(3))
    return (np.asarray(reached)[2:-2, 2:-2] > 0) & free


def reachable(free: BoolArray) -> BoolArray:
    """The True pixels ``(h, w)`` that are connected to the rim by True pixels (4-connected)."""
    reached = free.copy()
    reached[1:-1, 1:-1] = False
    count = -1
    while (now := int(reached.sum())) != count:
        count = now
        for _ in range(8):
            grown = reached.copy()
            grown[1:] |= reached[:-1]
            grown[:-1] |= reached[1:]
            grown[:, 1:] |= reached[:, :-1]
            grown[:, :-1] |= reached[:, 1:]
            reached = grown & free
    return reached
