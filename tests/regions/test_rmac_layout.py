from __future__ import annotations

from itertools import product

import pytest
import torch

from objemb.ops.rmac import rmac_cells, rmac_cells_of_pixels
from objemb.regions._rmac_layout import SMALL, RmacLayout


@pytest.mark.parametrize(("levels", "overlap"), [(3, 0.4), (1, 0.4), (4, 0.3)])
def test_squares_are_those_of_the_grid(levels: int, overlap: float) -> None:
    """Also where float64 differs from exact numbers: 5 x 9 cells, 62 x 2 cells."""
    layout = RmacLayout(levels, overlap)
    generator = torch.Generator().manual_seed(0)
    sizes = [*product(range(1, 40, 3), range(1, 40, 2)), (5, 9), (9, 5), (62, 2), (SMALL, 1), (35, 132)]
    sizes += [(height, width) for height, width in torch.randint(1, 300, (60, 2), generator=generator).tolist()]
    for height, width in sizes:
        expected = rmac_cells(height, width, levels, overlap)
        cells, count = layout(torch.tensor([height, width]))
        assert torch.equal(cells[: int(count)], expected), (height, width)
        assert len(cells) == layout.most
        assert not cells[int(count) :].any()
        raster = ((height + 31) // 32, (width + 31) // 32)
        expected = rmac_cells_of_pixels((height, width), raster, 32, levels, overlap)
        cells, count = layout.on_pixels(torch.tensor([height, width]), torch.tensor(raster), 32)
        assert torch.equal(cells[: int(count)], expected), (height, width)
