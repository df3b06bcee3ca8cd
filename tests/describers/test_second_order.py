from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from objemb.describers import _second_order as module
from objemb.describers._second_order import REGULARISATION, regularised_logm, second_moments, upper_triangle

NOISE = torch.randn(30, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def moments_by_hand(features: Tensor, weights: Tensor) -> Tensor:
    """One region and one cell after the other."""
    found = torch.zeros(len(weights), features.shape[1], features.shape[1], dtype=features.dtype)
    for matrix, of_region in zip(found, weights, strict=True):
        for weight, feature in zip(of_region, features, strict=True):
            matrix += weight / of_region.sum() * torch.outer(feature, feature)
    return found


def test_moments_by_hand() -> None:
    features = torch.tensor([[1.0, 0], [1, 2], [5, 5]])
    weights = torch.tensor([[1.0, 3, 0], [0, 0, 2]])
    expected = [[[1, 1.5], [1.5, 3]], [[25, 25], [25, 25]]]
    assert torch.allclose(second_moments(features, weights), torch.tensor(expected))


def test_moments_against_one_cell_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torch.rand(5, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    monkeypatch.setattr(module, "BLOCK", 2)
    assert torch.allclose(second_moments(NOISE, weights), moments_by_hand(NOISE, weights))


def test_no_regions_and_no_weight() -> None:
    assert second_moments(NOISE, torch.zeros(0, 30, dtype=torch.float64)).shape == (0, 6, 6)
    assert second_moments(NOISE, torch.zeros(2, 30, dtype=torch.float64)).abs().max() == 0
    assert regularised_logm(torch.zeros(2, 3, 3)).abs().max() == 0
    assert upper_triangle(regularised_logm(torch.zeros(0, 3, 3))).shape == (0, 6)


def test_logarithm_by_hand() -> None:
    delta = REGULARISATION * 2
    found = regularised_logm(torch.diag(torch.tensor([4.0, 2.0, 0.0], dtype=torch.float64))[None])[0]
    expected = torch.diag(torch.tensor([math.log(v + delta) for v in (4, 2, 0)], dtype=torch.float64))
    assert torch.allclose(found, expected)


@pytest.mark.parametrize("cells", [2, 30])  # fewer cells than channels, and more
def test_logarithm_against_scipy(cells: int) -> None:
    linalg = pytest.importorskip("scipy.linalg")
    moments = second_moments(NOISE[:cells], torch.ones(3, cells, dtype=torch.float64).cumsum(dim=0))
    for found, matrix in zip(regularised_logm(moments), moments, strict=True):
        delta = REGULARISATION * float(matrix.trace()) / 6
        expected = linalg.logm(matrix.numpy() + delta * np.eye(6))
        assert np.abs(found.numpy() - expected).max() < 1e-8


def test_upper_triangle() -> None:
    matrix = torch.tensor([[[1, 2, 3], [2, 4, 5], [3, 5, 6]]])
    assert upper_triangle(matrix).tolist() == [[1, 2, 3, 4, 5, 6]]


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match=r"weights: expected shape \(any, 30\), found \(2, 31\)"):
        second_moments(NOISE, torch.ones(2, 31, dtype=torch.float64))
    with pytest.raises(ValueError, match="share: expected a number above 0, found 0"):
        regularised_logm(torch.zeros(1, 2, 2), 0)
