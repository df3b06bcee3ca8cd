from __future__ import annotations

import pytest

from objemb.ops.grid import Grid
from objemb.regions.rmac_grid import RmacGrid
from tests.tiny import random_photo


def test_cells_become_original_pixels() -> None:
    photo = random_photo(24, 32, size=(240, 640))
    (found,) = RmacGrid().find([photo], [Grid(24, 32, (10.0, 20.0))])
    assert len(found) == 21
    assert found.boxes[:4].tolist() == [[0, 0, 640, 240], [0, 0, 480, 240], [160, 0, 640, 240], [0, 0, 320, 160]]


def test_last_cells_are_cut_off_at_the_border() -> None:
    photo = random_photo(20, 30)
    (found,) = RmacGrid(levels=1).find([photo], [Grid(3, 4, (8.0, 8.0))])
    assert found.boxes.tolist() == [[0, 0, 30, 20], [0, 0, 24, 20], [8, 0, 30, 20]]


def test_settings() -> None:
    grid = Grid(32, 32, (1.0, 1.0))
    assert [len(RmacGrid(levels=n).find([random_photo(32, 32)], [grid])[0]) for n in (1, 2, 3)] == [2, 6, 15]
    with pytest.raises(ValueError, match="levels: expected an integer of 1 or more, found 0"):
        RmacGrid(levels=0)
