"""Small pictures of products and photos for the tests of composing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


def noise(size: tuple[int, int], seed: int) -> Image.Image:
    """A photo without anything plain in it."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.NEAREST)


def on_plain(background: tuple[int, int, int], size: tuple[int, int] = (80, 100)) -> Image.Image:
    """A red disc with a hole in the colour of the background."""
    image = Image.new("RGB", size, background)
    pen = ImageDraw.Draw(image)
    pen.ellipse((20, 30, 60, 70), fill=(200, 30, 20))
    pen.ellipse((35, 45, 45, 55), fill=background)
    return image


def write_ingredients(folder: Path, products: int = 4, views: int = 3, photos: int = 5) -> tuple[Path, Path]:
    """``folder/products/<name>/<view>.png`` with alpha and ``folder/photos/*.jpg``."""
    for product in range(products):
        (folder / "products" / f"item{product}").mkdir(parents=True)
        for view in range(views):
            picture = noise((40, 60), 100 * product + view).convert("RGBA")
            picture.putalpha(Image.new("L", picture.size, 0))
            alpha = Image.new("L", picture.size, 0)
            ImageDraw.Draw(alpha).rectangle((5, 5, 34, 54), fill=255)
            picture.putalpha(alpha)
            picture.save(folder / "products" / f"item{product}" / f"{view}.png")
    (folder / "photos").mkdir()
    for photo in range(photos):
        noise((90, 70), 1000 + photo).save(folder / "photos" / f"{photo}.jpg")
    return folder / "products", folder / "photos"
