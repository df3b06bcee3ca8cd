from __future__ import annotations

import torch

from objemb.ops.grid import Grid

#: 3 x 4 cells of 10 x 20 pixels, the first of which begins 5 pixels above and 8 to the left of the photo.
GRID = Grid(3, 4, (10.0, 20.0), (-5.0, -8.0))


def test_by_hand() -> None:
    cells = torch.tensor([[0.0, 0, 1, 1], [1, 2, 4, 3]])
    pixels = torch.tensor([[-8.0, -5, 12, 5], [12, 15, 72, 25]])
    assert torch.equal(GRID.to_pixels(cells), pixels)
    assert torch.equal(GRID.to_cells(pixels), cells)


def test_keeps_the_precision_it_is_given() -> None:
    boxes = torch.rand(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 100
    there_and_back = GRID.to_pixels(GRID.to_cells(boxes))
    assert there_and_back.dtype == torch.float64
    assert torch.allclose(there_and_back, boxes, rtol=0, atol=1e-12)
    assert GRID.to_cells(boxes[:0]).shape == (0, 4)


def test_pixels_are_their_own_cells() -> None:
    boxes = torch.tensor([[1.5, 2, 3, 4]])
    assert torch.equal(Grid(10, 20, (1.0, 1.0)).to_cells(boxes), boxes)
