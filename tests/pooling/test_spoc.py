from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from objemb.pooling.mean import Mean
from objemb.pooling.spoc import Spoc


def slow(maps: Tensor, spread: float = 1 / 3) -> Tensor:
    """One map ``(C, h, w)``, cell by cell."""
    _, height, width = maps.shape
    sigma = spread * min(height, width) / 2
    total, norm = torch.zeros(len(maps), dtype=torch.float64), 0.0
    for y in range(height):
        for x in range(width):
            square = (y - (height - 1) / 2) ** 2 + (x - (width - 1) / 2) ** 2
            weight = math.exp(-square / (2 * sigma**2))
            total += weight * maps[:, y, x].double()
            norm += weight
    return total / norm


def test_by_hand() -> None:
    maps = torch.zeros(1, 2, 3, 3)
    maps[0, 0, 1, 1] = 1  # the centre
    maps[0, 1, 1, 2] = 1  # one cell from it, sigma being half a cell
    beside, corner = math.exp(-2), math.exp(-4)
    norm = 1 + 4 * beside + 4 * corner
    assert torch.allclose(Spoc()(maps), torch.tensor([[1 / norm, beside / norm]]))


@pytest.mark.parametrize("size", [(1, 1), (1, 8), (9, 2), (6, 7), (5, 5)])
def test_whole_maps_against_cell_by_cell(size: tuple[int, int]) -> None:
    maps = torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Spoc()(maps).double(), torch.stack([slow(m) for m in maps]), atol=1e-5)


def test_rectangles_against_cell_by_cell() -> None:
    maps = torch.randn(2, 4, 7, 6, generator=torch.Generator().manual_seed(0))
    cells = torch.tensor([[0, 0, 0, 6, 7], [1, 2, 1, 5, 3], [1, 5, 6, 6, 7], [0, 1, 0, 2, 7]])
    expected = torch.stack([slow(maps[n, :, y1:y2, x1:x2], 0.5) for n, x1, y1, x2, y2 in cells.tolist()])
    assert torch.allclose(Spoc(spread=0.5).rectangles(maps, cells).double(), expected, atol=1e-5)


def test_weights_are_multiplied_by_the_prior() -> None:
    maps = torch.tensor([[[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]]])
    # the region is the first two cells, whose centre is between them
    assert torch.allclose(Spoc()(maps, torch.tensor([[[0.5, 1.0, 0.0]]])), torch.tensor([[1 / 3, 2 / 3]]))


def test_a_region_without_its_middle_is_seen() -> None:
    maps, weights = torch.rand(1, 3, 1, 101), torch.zeros(1, 1, 101)
    weights[0, 0, [0, 100]] = 1
    assert torch.allclose(Spoc()(maps, weights), maps[..., [0, 100]].mean(dim=(2, 3)))


def test_a_wide_prior_is_the_mean() -> None:
    maps = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Spoc(spread=1e4)(maps), Mean()(maps), atol=1e-5)


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="spread: expected a number above 0, found 0"):
        Spoc(spread=0)
