from __future__ import annotations

from objemb.ops.grid import pixel_grid
from objemb.regions.whole_image import WholeImage
from tests.tiny import random_photo


def test_one_region_in_original_pixels() -> None:
    photos = [random_photo(4, 6, size=(40, 60)), random_photo(1, 1)]
    found = WholeImage().find(photos, [pixel_grid(p.size) for p in photos])
    assert [f.boxes.tolist() for f in found] == [[[0, 0, 60, 40]], [[0, 0, 1, 1]]]
