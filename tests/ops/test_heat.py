from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from objemb.ops.grid import Grid
from objemb.ops.heat import PARTS, heat_boxes, hot_cells, spread

GRID, SIZE = Grid(4, 6, (10.0, 20.0)), (40, 120)
#: A network of stride 32 that pads sees 17 cells in 513 pixels, around pixel 0 to 512.
PADDED = Grid(17, 17, (32.0, 32.0), (-15.5, -15.5))


def plateau(y1: int, x1: int, y2: int, x2: int, value: float = 1.0) -> Tensor:
    heat = torch.zeros(4, 6)
    heat[y1:y2, x1:x2] = value
    return heat


def test_boxes_of_whole_cells() -> None:
    """Halfway between a hot cell and a cold one lies their border."""
    heat = torch.stack([plateau(1, 2, 3, 5), plateau(0, 0, 2, 2, 9.0), plateau(0, 0, 4, 6), torch.zeros(4, 6)])
    boxes = heat_boxes(heat, 0.5, GRID, SIZE)
    expected = [[40.0, 10, 100, 30], [0, 0, 40, 20], [0, 0, 120, 40], [0, 0, 120, 40]]
    assert torch.allclose(boxes, torch.tensor(expected), atol=20 / PARTS)
    assert boxes.dtype == torch.float32


def test_only_the_largest_part_counts() -> None:
    heat = plateau(0, 0, 3, 3) + plateau(0, 5, 1, 6)
    assert heat_boxes(heat[None], 0.5, GRID, SIZE)[0, 2] < 80
    heat[0, 5] = 1.5
    assert heat_boxes(heat[None], 0.5, GRID, SIZE)[0, 2] < 80, "the hottest place is not in the largest part"


def slow(heat: Tensor, threshold: float) -> list[float]:
    """Fine pixels, one after the other; the parts by flooding."""
    fine = F.interpolate(heat[None, None], scale_factor=PARTS, mode="bilinear", align_corners=False)[0, 0]
    hot = (fine > threshold * fine.max()).tolist()
    waiting = {(y, x) for y, row in enumerate(hot) for x, on in enumerate(row) if on}
    parts = []
    while waiting:
        edge, part = [min(waiting)], []
        waiting.remove(edge[0])
        while edge:
            y, x = edge.pop()
            part.append((y, x))
            for near in [(y + down, x + right) for down in (-1, 0, 1) for right in (-1, 0, 1)]:
                if near in waiting:
                    waiting.remove(near)
                    edge.append(near)
        parts.append(part)
    ys, xs = zip(*max(parts, key=len), strict=True)
    return [v / PARTS for v in (min(xs), min(ys), max(xs) + 1, max(ys) + 1)]


def test_against_a_slow_reference() -> None:
    heat = torch.rand(9, 4, 6, generator=torch.Generator().manual_seed(0))
    for threshold in (0.0, 0.3, 0.5, 0.9):
        expected = torch.tensor([slow(h, threshold) for h in heat]) * torch.tensor([20.0, 10, 20, 10])
        assert torch.allclose(heat_boxes(heat, threshold, GRID, SIZE), expected, atol=1e-5)


def test_cells_that_are_hotter_than_a_share() -> None:
    heat = torch.tensor([[0.0, 2, 4, 0, 0], [0, 0, 0, 1, 0], [1, 0, 0, 0, 0]])
    asked = {0.0: [1, 0, 4, 2], 0.2: [1, 0, 4, 2], 0.25: [1, 0, 3, 1], 0.5: [2, 0, 3, 1], 1.0: [0, 0, 5, 3]}
    for threshold, box in asked.items():
        assert hot_cells(heat[None], threshold).tolist() == [box], threshold
    assert hot_cells(torch.zeros(2, 3, 5), 0.0).tolist() == [[0, 0, 5, 3]] * 2
    assert hot_cells(torch.zeros(0, 3, 5), 0.5).shape == (0, 4)


def test_cells_lie_where_the_network_looks() -> None:
    """The middle stays the middle."""
    heat = torch.zeros(1, 17, 17)
    heat[0, 8, 8] = heat[0, 0, 0] = 1
    heat[0, 8, 9] = heat[0, 8, 7] = 1
    x1, y1, x2, y2 = heat_boxes(heat, 0.5, PADDED, (513, 513))[0].tolist()
    assert (x1 + x2, y1 + y2) == (513, 513)
    whole = heat_boxes(torch.ones(1, 17, 17), 0.5, PADDED, (513, 513))
    assert whole.tolist() == [[0, 0, 513, 513]], "inside the image"


def test_heat_over_a_photo() -> None:
    heat = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(heat[None], size=(20, 60), mode="bilinear", align_corners=False)[0]
    assert torch.allclose(spread(heat, GRID, SIZE, (20, 60)), expected, atol=1e-5)
    heat = torch.zeros(1, 17, 17)
    heat[0, 0, 16] = 1
    picture = spread(heat, PADDED, (513, 513), (513, 513))[0]
    assert picture.argmax() == 512, "the first row of cells lies around the first row of pixels"
    assert picture[16, 512] == pytest.approx(0.5)
    assert spread(heat[:0], GRID, SIZE, (5, 7)).shape == (0, 5, 7)


def test_small_and_empty() -> None:
    assert heat_boxes(torch.zeros(0, 4, 6), 0.5, GRID, SIZE).shape == (0, 4)
    assert heat_boxes(torch.ones(1, 1, 1), 0.5, Grid(1, 1, (1.0, 1.0)), (1, 1)).tolist() == [[0, 0, 1, 1]]


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match=r"heat: expected shape \(any, any, any\), found \(4, 6\)"):
        heat_boxes(torch.zeros(4, 6), 0.5, GRID, SIZE)
    with pytest.raises(ValueError, match="threshold: expected a number from 0 to 1, found 2"):
        heat_boxes(torch.zeros(1, 4, 6), 2, GRID, SIZE)
