from __future__ import annotations

import pytest
import torch
from PIL import ImageColor

from objemb.ops.grid import Grid
from objemb.visualize.heat import GAP, LINE, SIDE, HeatRow, heat_sheet
from objemb.visualize.pictures import COLOURS
from tests.tiny import plain_photo


def rows() -> list[HeatRow]:
    hot = torch.zeros(2, 3, 3)
    hot[0, 1, 1], hot[1] = 4.0, 1.0
    photo = plain_photo(30, 30, (0, 0, 0))
    return [
        HeatRow(photo, hot, Grid(3, 3, (10, 10)), "first", (0, 0, 15, 30)),
        HeatRow(plain_photo(15, 30, (0, 0, 0)), hot[:, :1] * 0.5, Grid(1, 3, (15, 10)), "second\n"),
    ]


def test_a_row_per_photo_and_a_column_per_concept() -> None:
    sheet = heat_sheet(rows(), chosen=1)
    assert sheet.size == (GAP + 3 * (SIDE + GAP), 3 * GAP + 2 * LINE + SIDE + SIDE // 2)

    def pixel(row: int, column: int, x: float, y: float) -> tuple[int, ...]:
        top = GAP + LINE + row * (SIDE + GAP + LINE)
        return sheet.getpixel((round(GAP + column * (SIDE + GAP) + x * SIDE), round(top + y * SIDE)))

    assert pixel(0, 1, 0.5, 0.5) == pytest.approx(ImageColor.getrgb(COLOURS[0]), abs=4), (
        "the hottest place has the colour of the concept"
    )
    assert pixel(0, 1, 0.05, 0.05) == (0, 0, 0)
    second = ImageColor.getrgb(COLOURS[1])
    assert pixel(0, 2, 0.5, 0.5) == second
    assert pixel(1, 2, 0.5, 0.2) == pytest.approx([v / 2 for v in second], abs=1), "one scale for all photos"
    assert pixel(0, 0, 119 / SIDE, 0.5) == (255, 255, 255), "the right edge of the box"


def test_without_concepts_or_rows() -> None:
    photo = plain_photo(30, 30, (0, 0, 0))
    assert heat_sheet([HeatRow(photo, torch.zeros(0, 3, 3), Grid(3, 3, (10, 10)), "black")]).width == 2 * GAP + SIDE
    assert heat_sheet([]).height == GAP
