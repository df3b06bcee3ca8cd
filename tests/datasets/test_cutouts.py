from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from objemb.datasets.cutouts import reachable, read_cutout
from objemb.images import UnreadableImageError
from tests.datasets.pictures import noise, on_plain


def saved(folder: Path, image: Image.Image, name: str = "a.png", **options) -> Path:
    image.save(folder / name, **options)
    return folder / name


def test_own_alpha_is_kept_and_empty_edges_are_cut_off(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (50, 40), (10, 20, 30, 0))
    picture.paste((200, 100, 50, 255), (10, 5, 40, 35))
    cutout = read_cutout(saved(tmp_path, picture))
    assert cutout.size == (30, 30)
    assert np.asarray(cutout)[15, 15].tolist() == [200, 100, 50, 255]


def test_half_transparent_colours_are_not_mixed_with_white(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (30, 30), (200, 0, 0, 128))
    assert np.asarray(read_cutout(saved(tmp_path, picture)))[9, 9].tolist() == [200, 0, 0, 128]


def test_alpha_is_turned_with_the_picture(tmp_path: Path) -> None:
    picture = Image.new("RGBA", (60, 30), (1, 2, 3, 255))
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.putpixel((0, 0), (0, 0, 0, 0))
    cutout = read_cutout(saved(tmp_path, picture, exif=exif))
    assert cutout.size == (30, 60)
    assert np.asarray(cutout)[0, 29, 3] == 0


def test_a_plain_light_background_is_taken_away_but_not_what_it_encloses(tmp_path: Path) -> None:
    cutout = read_cutout(saved(tmp_path, on_plain((250, 250, 250))))
    alpha = np.asarray(cutout)[..., 3]
    assert cutout.size == pytest.approx((40, 40), abs=4)
    assert alpha[0, 0] == 0
    middle = cutout.height // 2
    assert alpha[middle, middle] == 255  # the hole has the colour of the background but is part of the product


def test_dark_backgrounds_are_believed_only_when_asked(tmp_path: Path) -> None:
    path = saved(tmp_path, on_plain((10, 10, 12)))
    assert read_cutout(path).size == (80, 100)
    assert read_cutout(path, cut="plain").size == pytest.approx((40, 40), abs=4)


def test_pictures_without_a_plain_background_stay_rectangles(tmp_path: Path) -> None:
    path = saved(tmp_path, noise((50, 60), 1), "a.jpg")
    assert read_cutout(path).size == (50, 60)
    assert np.asarray(read_cutout(path))[..., 3].min() == 255
    with pytest.raises(UnreadableImageError, match="expected a plain background, found none"):
        read_cutout(path, cut="plain")
    assert read_cutout(saved(tmp_path, on_plain((255, 255, 255))), cut="none").size == (80, 100)
    assert read_cutout(saved(tmp_path, Image.new("RGB", (40, 40), "white"))).size == (40, 40)


def test_large_pictures_are_scaled_down(tmp_path: Path) -> None:
    assert read_cutout(saved(tmp_path, noise((300, 150), 1)), side=100).size == (100, 50)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGBA", (40, 40), (9, 9, 9, 0)), "not transparent, found 0 x 0"),
        (Image.new("RGB", (40, 8)), "expected at least 12 pixels .* found 40 x 8"),
    ],
)
def test_pictures_of_no_use(tmp_path: Path, image: Image.Image, message: str) -> None:
    with pytest.raises(UnreadableImageError, match=message):
        read_cutout(saved(tmp_path, image))


def test_broken_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n garbage")
    with pytest.raises(UnreadableImageError):
        read_cutout(tmp_path / "a.png")
    with pytest.raises(ValueError, match="cut: expected one of"):
        read_cutout(tmp_path / "a.png", cut="magic")


def test_reachable_by_hand_and_by_search() -> None:
    spiral = ["#######", "......#", "#####.#", "#...#.#", "#.###.#", "#.....#", "#######"]
    free = np.array([[c == "." for c in row] for row in spiral])
    assert (reachable(free) == free).all()
    rng = np.random.default_rng(0)
    for _ in range(5):
        free = rng.random((15, 20)) < 0.6
        assert (reachable(free) == searched(free)).all()


def searched(free: np.ndarray) -> np.ndarray:
    h, w = free.shape
    stack = [(y, x) for y in range(h) for x in range(w) if free[y, x] and (y in (0, h - 1) or x in (0, w - 1))]
    found = np.zeros_like(free)
    while stack:
        y, x = stack.pop()
        if 0 <= y < h and 0 <= x < w and free[y, x] and not found[y, x]:
            found[y, x] = True
            stack += [(y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)]
    return found
