from __future__ import annotations

import math

import pytest
import torch

from objemb.ops.rmac import first_summed, rmac_cells, rmac_cells_of_pixels
from objemb.structures import Regions


def reference(width: int, height: int, levels: int) -> list[tuple[int, int, int, int]]:
    """The definition of the grid, line by line, as (x, y, side, side)."""
    w = min(width, height)
    misses = []
    for steps in (2, 3, 4, 5, 6, 7):
        b = (max(width, height) - w) / (steps - 1)
        misses.append(abs((w**2 - w * b) / w**2 - 0.4))
    index = misses.index(min(misses)) + 1
    more_x = index if height < width else 0
    more_y = index if height > width else 0
    regions = []
    for level in range(1, levels + 1):
        wl = math.floor(2 * w / (level + 1))
        wl2 = math.floor(wl / 2 - 1)
        bx = (width - wl) / (level + more_x - 1) if level + more_x > 1 else 0
        by = (height - wl) / (level + more_y - 1) if level + more_y > 1 else 0
        for i in range(level + more_y):
            for j in range(level + more_x):
                regions.append((math.floor(wl2 + j * bx) - wl2, math.floor(wl2 + i * by) - wl2, wl, wl))
    return regions


def as_squares(height: int, width: int, levels: int = 3) -> list[tuple[int, int, int, int]]:
    return [(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in rmac_cells(height, width, levels).tolist()]


def test_vectors_of_the_definition() -> None:
    square = as_squares(32, 32)
    assert len(square) == 14
    assert [square[i][2] for i in (0, 1, 5)] == [32, 21, 16]
    wide = as_squares(24, 32)
    assert len(wide) == 20
    assert [wide[i][2] for i in (0, 2, 8)] == [24, 16, 12]
    assert wide[:4] == [(0, 0, 24, 24), (8, 0, 24, 24), (0, 0, 16, 16), (8, 0, 16, 16)]
    assert len(as_squares(10, 20)) == 26
    assert len(as_squares(24, 64)) == 32


def test_transposing_the_map_transposes_the_set() -> None:
    for height, width in ((24, 32), (10, 20), (7, 7), (13, 40)):
        swapped = {(y, x, h, w) for x, y, w, h in as_squares(height, width)}
        assert swapped == set(as_squares(width, height))


@pytest.mark.parametrize("levels", [1, 3, 5])
def test_against_the_definition_on_all_small_maps(levels: int) -> None:
    for height in range(2, 40, 3):
        for width in range(2, 60, 5):
            expected = [r for r in reference(width, height, levels) if r[2] > 0]
            assert as_squares(height, width, levels) == expected, (height, width)


def test_squares_lie_on_the_map_and_are_never_empty() -> None:
    for height in range(1, 12):
        for width in (1, 2, 3, 9, 50, 200):
            cells = rmac_cells(height, width, 4)
            assert len(cells) > 0
            assert (cells[:, :2] >= 0).all()
            assert (cells[:, 2] <= width).all()
            assert (cells[:, 3] <= height).all()
            assert (cells[:, 2:] > cells[:, :2]).all()


def roi_pooled(square: tuple[int, int, int, int], stride: int, height: int, width: int) -> list[int]:
    """The cells of a square of pixels, one by one as ROI pooling in Caffe picks them: x1, y1, x2, y2, exclusive."""
    x, y, w, h = square
    x1, y1, x2, y2 = (math.floor(v / stride + 0.5) for v in (x, y, x + w - 1, y + h - 1))
    columns = [c for c in range(width) if x1 <= c <= x2] or [width - 1]
    rows = [r for r in range(height) if y1 <= r <= y2] or [height - 1]
    return [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]


def test_squares_of_pixels_by_hand() -> None:
    # 96 x 128 pixels, 3 x 4 cells: squares of 96 pixels at x = 0 and 32; of 64 at x = 0, 32, 64 and y = 0, 32. The last
    # pixel of the first is 95, 2.97 cells, so cell 3 is in it
    found = rmac_cells_of_pixels((96, 128), (3, 4), 32, levels=2)
    assert found.tolist() == [
        [0, 0, 4, 3],
        [1, 0, 4, 3],
        *([0, 0, 3, 3], [1, 0, 4, 3], [2, 0, 4, 3]),
        *([0, 1, 3, 3], [1, 1, 4, 3], [2, 1, 4, 3]),
    ]
    # half a cell goes up: 16 pixels are cell 1
    assert rmac_cells_of_pixels((32, 48), (1, 2), 32, levels=1).tolist() == [[0, 0, 2, 1], [1, 0, 2, 1]]


@pytest.mark.parametrize(("levels", "stride"), [(2, 32), (5, 32), (3, 8)])
def test_squares_of_pixels_against_roi_pooling(levels: int, stride: int) -> None:
    for height, width in ((800, 600), (601, 800), (550, 550), (289, 385), (100, 1024), (33, 33), (17, 20), (3, 40)):
        for up in (False, True):
            raster = [max(1, -(-s // stride) if up else s // stride) for s in (height, width)]
            expected = [
                roi_pooled(square, stride, *raster) for square in reference(width, height, levels) if square[2] > 0
            ]
            found = rmac_cells_of_pixels((height, width), (raster[0], raster[1]), stride, levels)
            assert found.tolist() == expected, (height, width, up)


def test_without_a_map_pixels_are_cells() -> None:
    for size in ((30, 40), (51, 17), (1, 1)):
        assert rmac_cells_of_pixels(size, size, 1).tolist() == rmac_cells(*size).tolist()


def test_the_result_is_a_copy() -> None:
    rmac_cells(5, 5).zero_()
    assert rmac_cells(5, 5).sum() > 0


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="levels: expected a number above 0, found 0"):
        rmac_cells(5, 5, 0)
    with pytest.raises(ValueError, match=r"overlap: expected a number from 0 to 1, found 1\.5"):
        rmac_cells(5, 5, 3, 1.5)


SIZE = (40, 60)
WHOLE = Regions.whole(SIZE)
BOX = Regions(torch.tensor([[0.0, 0, 60, 39]]), SIZE)


def test_the_whole_image_joins_where_it_shall_or_is_alone() -> None:
    assert first_summed(Regions.cat([WHOLE, BOX]), whole_image=False) == 1
    assert first_summed(Regions.cat([WHOLE, BOX]), whole_image=True) == 0
    assert first_summed(Regions.cat([BOX, WHOLE]), whole_image=False) == 0
    assert first_summed(WHOLE, whole_image=False) == 0
    assert first_summed(Regions.empty(SIZE), whole_image=False) == 0
