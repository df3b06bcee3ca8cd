from __future__ import annotations

import pytest
import torch

from objemb.pooling.mean import Mean
from objemb.pooling.selective import Selective

MAPS = torch.tensor([[[[1.0, 5.0], [2.0, 3.0]], [[4.0, 0.0], [0.0, 3.0]]]])


def test_max_by_hand() -> None:
    assert Selective()(MAPS).tolist() == [[3, 2]]  # the first row


def test_sum_by_hand() -> None:
    # sums 5 5 / 2 6, median 5
    assert torch.allclose(Selective(mask="sum")(MAPS), torch.tensor([[9 / 3, 7 / 3]]))


@pytest.mark.parametrize("mask", ["max", "sum"])
def test_weights(mask: str) -> None:
    weights = torch.tensor([[[0.5, 1.0], [0.0, 0.0]]])
    expected = [[(0.5 * 1 + 5) / 1.5, 0.5 * 4 / 1.5]]  # both cells of the row are selected by either mask
    assert torch.allclose(Selective(mask=mask)(MAPS, weights), torch.tensor(expected))
    assert not Selective(mask=mask)(MAPS, weights * 0).any()


@pytest.mark.parametrize("mask", ["max", "sum"])
def test_rectangles_of_many_shapes(mask: str) -> None:
    maps = torch.randn(3, 4, 7, 6, generator=torch.Generator().manual_seed(0)).relu()
    cells = torch.tensor([[n, x, y, 6 - n, 7 - y] for n in (2, 0, 1) for x in range(4) for y in range(3)])
    pooling = Selective(mask=mask)
    slow = torch.cat([pooling(maps[n : n + 1, :, y1:y2, x1:x2]) for n, x1, y1, x2, y2 in cells.tolist()])
    assert torch.allclose(pooling.rectangles(maps, cells), slow, atol=1e-5)


@pytest.mark.parametrize("mask", ["max", "sum"])
def test_a_map_that_is_the_same_everywhere(mask: str) -> None:
    maps = torch.full((2, 3, 4, 4), 2.0)
    assert torch.allclose(Selective(mask=mask)(maps), Mean()(maps))


def test_an_unknown_mask() -> None:
    with pytest.raises(ValueError, match="mask: expected one of 'max', 'sum', found 'sift'"):
        Selective(mask="sift")
