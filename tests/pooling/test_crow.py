from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from objemb.ops.tensors import l2
from objemb.pooling.crow import Crow
from objemb.pooling.mean import Mean


def slow(maps: Tensor, a: float = 2.0, b: float = 2.0) -> Tensor:
    """The direction of one map ``(C, h, w)`` as in the paper: the normalised sum, channel weights without epsilon."""
    channels, height, width = maps.shape
    maps = maps.double()
    busy = maps.sum(dim=0)
    alpha = (busy / (busy**a).sum() ** (1 / a)) ** (1 / b)
    active = [float((maps[k] > 0).sum()) / (height * width) for k in range(channels)]
    beta = [math.log(sum(active) / q) if q > 0 else 0.0 for q in active]
    vector = torch.stack([beta[k] * (alpha * maps[k]).sum() for k in range(channels)])
    return l2(vector[None])[0]


def positive(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu()


def test_by_hand() -> None:
    # sums 4 and 0: only the first cell weighs; channels 0 and 1 are active in half of the cells, channel 2 in none
    maps = torch.tensor([[[[3.0, 0.0]], [[1.0, 0.0]], [[0.0, 0.0]]]])
    assert torch.allclose(Crow()(maps), torch.tensor([[3.0, 1.0, 0.0]]) * math.log(2), atol=1e-4)


def test_a_channel_that_is_always_active_counts_less() -> None:
    maps = torch.tensor([[[[1.0, 1.0]], [[1.0, 0.0]]]])
    first, second = Crow(spatial=False)(maps)[0].tolist()
    assert first == pytest.approx(1 * math.log(1.5 / 1), rel=1e-4)
    assert second == pytest.approx(0.5 * math.log(1.5 / 0.5), rel=1e-4)


@pytest.mark.parametrize("b", [1.0, 2.0, 5.0])
def test_whole_maps_against_the_paper(b: float) -> None:
    maps = positive(3, 6, 5, 7)
    expected = torch.stack([slow(m, b=b) for m in maps])
    assert torch.allclose(l2(Crow(power=b)(maps)).double(), expected, atol=1e-5)


def test_rectangles_against_the_paper() -> None:
    maps = positive(2, 6, 7, 6)
    cells = torch.tensor([[0, 0, 0, 6, 7], [1, 2, 1, 5, 3], [1, 2, 4, 6, 7]])
    expected = torch.stack([slow(maps[n, :, y1:y2, x1:x2]) for n, x1, y1, x2, y2 in cells.tolist()])
    assert torch.allclose(l2(Crow().rectangles(maps, cells)).double(), expected, atol=1e-5)


def test_without_weights_of_cells() -> None:
    maps = positive(2, 6, 5, 7)
    plain = Crow(spatial=False)
    ratio = plain(maps) / Mean()(maps)
    cells = torch.tensor([[1, 0, 0, 7, 5], [0, 0, 0, 7, 5]])
    assert torch.allclose(plain.rectangles(maps, cells), plain(maps).flip(0), atol=1e-5)
    active = (maps > 0).float().mean(dim=(2, 3))
    assert torch.allclose(ratio, (active.sum(1, keepdim=True) / active).log(), atol=1e-4)


def test_fractional_weights() -> None:
    maps = torch.tensor([[[[2.0, 0.0, 8.0]], [[2.0, 4.0, 8.0]]]])
    weights = torch.tensor([[[0.5, 1.0, 0.0]]])
    alpha = torch.tensor([0.5 * 2.0, 1.0 * 2.0])  # square roots of the sums 4 and 4, times the weights
    mean = torch.tensor([alpha[0] * 2, alpha[0] * 2 + alpha[1] * 4]) / alpha.sum()
    beta = torch.tensor([math.log((1 / 3 + 1) / (1 / 3)), math.log((1 / 3 + 1) / 1)])
    assert torch.allclose(Crow()(maps, weights)[0], mean * beta, atol=1e-4)


def test_maps_that_are_zero_or_negative() -> None:
    assert not Crow()(torch.zeros(2, 3, 4, 4)).any()
    assert not Crow()(-positive(2, 3, 4, 4)).any()


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match="power: expected a number above 0, found -1"):
        Crow(power=-1)
    with pytest.raises(ValueError, match="spatial: expected true or false, found 'no'"):
        Crow(spatial="no")  # type: ignore[arg-type]
