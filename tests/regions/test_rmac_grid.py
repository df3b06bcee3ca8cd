from __future__ import annotations

import pytest
import torch

from objemb.ops.boxes import touched_cells
from objemb.ops.grid import Grid, map_grid
from objemb.ops.rmac import rmac_cells, rmac_cells_of_pixels
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


def test_squares_of_input_pixels() -> None:
    # a photo of 192 x 256 that entered at 96 x 128: 3 x 4 cells of 64 original pixels, half of one beside the photo
    photo = random_photo(192, 256)
    grid = map_grid((3, 4), (96, 128), photo.size, 32, -15.5)
    assert grid.shape(photo.size) == (96, 128)
    (found,) = RmacGrid(levels=2, raster="pixels").find([photo], [grid])
    expected = [[0, 0, 4, 3], [0, 0, 4, 3], [1, 0, 4, 3], [0, 0, 3, 3], [1, 0, 4, 3], [2, 0, 4, 3]]
    assert touched_cells(grid.to_cells(torch.as_tensor(found.boxes)), (3, 4)).tolist()[:6] == expected
    assert found.boxes[2].tolist() == [33, 0, 225, 161], "cell 1 begins at 32 - 15.5 pixels of the input"


@pytest.mark.parametrize("raster", ["cells", "pixels"])
def test_a_box_comes_back_as_exactly_its_cells(raster: str) -> None:
    for shape in ((97, 385), (289, 385), (385, 241), (32, 33), (1025, 641)):
        cells = (-(-shape[0] // 32), -(-shape[1] // 32))
        photo = random_photo(shape[0] // 2 + 3, shape[1] // 2 + 5)
        grid = map_grid(cells, shape, photo.size, 32, -15.5)
        (found,) = RmacGrid(levels=4, raster=raster).find([photo], [grid])
        laid = rmac_cells(*cells, 4) if raster == "cells" else rmac_cells_of_pixels(shape, cells, 32, 4)
        assert touched_cells(grid.to_cells(torch.as_tensor(found.boxes[1:])), cells).tolist() == laid.tolist(), shape


def test_settings() -> None:
    grid = Grid(32, 32, (1.0, 1.0))
    assert [len(RmacGrid(levels=n).find([random_photo(32, 32)], [grid])[0]) for n in (1, 2, 3)] == [2, 6, 15]
    pixels = RmacGrid(raster="pixels").find([random_photo(32, 32)], [grid])[0]
    assert torch.equal(
        torch.as_tensor(pixels.boxes), torch.as_tensor(RmacGrid().find([random_photo(32, 32)], [grid])[0].boxes)
    ), "cells are pixels"
    with pytest.raises(ValueError, match="raster: expected one of 'cells', 'pixels', found 'cell'"):
        RmacGrid(raster="cell")
    with pytest.raises(ValueError, match="levels: expected an integer of 1 or more, found 0"):
        RmacGrid(levels=0)
