from __future__ import annotations

import pytest
import torch

from objemb.pooling.gem import Gem

MAPS = torch.tensor([[[[1.0, 2.0], [3.0, 0.0]], [[-1.0, -2.0], [-3.0, -4.0]]]])


def test_by_hand() -> None:
    expected = torch.tensor([[((1 + 8 + 27) / 4) ** (1 / 3), 1e-6]])
    assert torch.allclose(Gem()(MAPS), expected)


def test_weights() -> None:
    weights = torch.tensor([[[1.0, 0.5], [0.0, 0.0]]])
    assert torch.allclose(Gem(p=2)(MAPS, weights)[0, 0], torch.tensor(((1 + 0.5 * 4) / 1.5) ** 0.5))
    assert Gem()(MAPS, torch.zeros(1, 2, 2)).tolist() == [[0, 0]]


def test_runs_from_mean_to_maximum_without_overflow() -> None:
    maps = 100 * torch.rand(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(Gem(p=1)(maps), maps.mean(dim=(2, 3)), rtol=1e-4)
    assert torch.allclose(Gem(p=300)(maps), maps.amax(dim=(2, 3)), rtol=0.02)


@pytest.mark.parametrize("p", [1.0, 2.5, 3.0, 10.0])
def test_rectangles_against_the_formula(p: float) -> None:
    maps = torch.randn(2, 4, 7, 6, generator=torch.Generator().manual_seed(0)).relu() * 5
    cells = torch.tensor([[0, 0, 0, 6, 7], [1, 2, 1, 5, 3], [1, 5, 6, 6, 7]])
    slow = [
        maps[n, :, y1:y2, x1:x2].double().clamp_min(1e-6).pow(p).mean(dim=(1, 2)).pow(1 / p)
        for n, x1, y1, x2, y2 in cells.tolist()
    ]
    assert torch.allclose(Gem(p=p).rectangles(maps, cells).double(), torch.stack(slow), rtol=1e-5, atol=1e-5)


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="p: expected a number above 0, found -1"):
        Gem(p=-1)
