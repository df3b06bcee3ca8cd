"""A small folder as somebody collects it: objects pasted onto noise, photos of other things, and broken files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

#: Left and top of the object in each photo of the class ``tower``, whose side is 96 in a photo of 176 x 144.
TOWER = {"a": (10, 20), "b": (60, 40), "c": (40, 5), "d": (75, 30)}
SIDE, SIZE = 96, (176, 144)


def pattern(seed: int, width: int, height: int) -> np.ndarray:
    """Random rectangles, uint8 ``(height, width, 3)``: many corners for SIFT."""
    rng = np.random.default_rng(seed)
    picture = np.full((height, width, 3), 90, np.uint8)
    for _ in range(width * height // 250):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        w, h = rng.integers(4, 20, 2).tolist()
        picture[y : y + h, x : x + w] = rng.integers(0, 255, 3)
    return picture


def with_object(seed: int, thing: np.ndarray, place: tuple[int, int]) -> Image.Image:
    """A photo of its own background with an object at a place."""
    picture = pattern(seed, *SIZE)
    x, y = place
    picture[y : y + thing.shape[0], x : x + thing.shape[1]] = thing
    return Image.fromarray(picture)


def write_collected(root: Path) -> Path:
    """The folder.

    - ``tower``: four photos of an object, three of another one (a second view), two of neither, a broken file;
    - ``gate``: two photos of an object, one of another thing;
    - ``noise``: three photos of three things.
    """
    folder = root / "collected"
    for name in ("tower", "gate", "noise"):
        (folder / name).mkdir(parents=True)
    tower, inside, gate = (pattern(seed, SIDE, SIDE) for seed in (1, 2, 3))
    for number, (name, place) in enumerate(TOWER.items()):
        with_object(10 + number, tower, place).save(folder / "tower" / f"{name}.png")
    for number in range(3):
        with_object(20 + number, inside, (10 + 30 * number, 20)).save(folder / "tower" / f"inside{number}.png")
    for number in range(2):
        Image.fromarray(pattern(30 + number, *SIZE)).save(folder / "tower" / f"other{number}.png")
        with_object(40 + number, gate, (20 + 50 * number, 30)).save(folder / "gate" / f"{number}.png")
    (folder / "tower" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    Image.fromarray(pattern(50, *SIZE)).save(folder / "gate" / "other.png")
    for number in range(3):
        Image.fromarray(pattern(60 + number, *SIZE)).save(folder / "noise" / f"{number}.png")
    return folder
