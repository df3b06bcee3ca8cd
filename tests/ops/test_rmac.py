from __future__ import annotations

import math

import pytest

from objemb.ops.rmac import rmac_cells


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


def test_the_result_is_a_copy() -> None:
    rmac_cells(5, 5).zero_()
    assert rmac_cells(5, 5).sum() > 0


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="levels: expected a number above 0, found 0"):
        rmac_cells(5, 5, 0)
    with pytest.raises(ValueError, match=r"overlap: expected a number from 0 to 1, found 1\.5"):
        rmac_cells(5, 5, 3, 1.5)
