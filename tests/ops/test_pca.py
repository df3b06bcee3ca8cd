from __future__ import annotations

import pytest
import torch

from objemb.checks import NotFittedError
from objemb.ops.pca import PcaBasis


def stretched(count: int = 200) -> torch.Tensor:
    """Vectors that vary most along y, then along x, a little along z, around a mean far away."""
    noise = torch.randn(count, 3, generator=torch.Generator().manual_seed(0))
    return noise * torch.tensor([2.0, 5.0, 0.1]) + torch.tensor([7.0, 7.0, 7.0])


def test_directions_of_the_largest_variance() -> None:
    basis = PcaBasis(3, 2)
    basis.fit(stretched(), fitted_on="noise")
    assert torch.allclose(basis.directions, torch.tensor([[0.0, 1, 0], [1, 0, 0]]), atol=0.05)
    assert torch.allclose(basis.directions @ basis.directions.T, torch.eye(2), atol=1e-6)


def test_neither_mean_nor_whitening() -> None:
    basis = PcaBasis(3, 2)
    basis.fit(stretched(), fitted_on="noise")
    vectors = torch.tensor([[0.0, 0, 0], [3.0, 4, 5]])
    assert torch.allclose(basis(vectors), vectors @ basis.directions.T)
    assert basis(vectors[:0]).shape == (0, 2)


def test_against_singular_vectors() -> None:
    vectors = torch.randn(40, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    basis = PcaBasis(6, 4)
    basis.fit(vectors, fitted_on="noise")
    right = torch.linalg.svd(vectors - vectors.mean(dim=0))[2][:4].float()
    assert torch.allclose((basis.directions @ right.T).abs(), torch.eye(4), atol=1e-5)


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match=r"dim: expected at most the length of the vectors \(3\), found 4"):
        PcaBasis(3, 4)
    with pytest.raises(NotFittedError, match="PcaBasis: expected to be fitted, found a fresh one"):
        PcaBasis(3, 2)(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"vectors: expected shape \(any, 3\), found \(2, 4\)"):
        PcaBasis(3, 2).fit(torch.zeros(2, 4), fitted_on="noise")
    with pytest.raises(ValueError, match=r"dim: expected 1 to 1 \(2 vectors of length 3"):
        PcaBasis(3, 2).fit(torch.eye(3)[:2], fitted_on="noise")
