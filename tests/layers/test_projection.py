from __future__ import annotations

import pytest
import torch

from objemb.checks import NotFittedError
from objemb.layers.projection import PcaBasis, Projection
from objemb.layers.whitening import Whitening
from objemb.ops.tensors import l2

VECTORS = l2(torch.randn(60, 6, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("power", [0.5, 0.25, 0.0])
def test_starts_as_a_whitening(power: float) -> None:
    projection = Projection(6, 4, power)
    projection.fit(VECTORS, fitted_on="noise")
    whitening = Whitening.fit(VECTORS, 4, power, fitted_on="noise")
    torch.testing.assert_close(projection(VECTORS), whitening.map(VECTORS), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(l2(projection(VECTORS)), whitening(VECTORS), rtol=1e-5, atol=1e-5)
    assert int(projection.count) == 60


def test_by_hand() -> None:
    """Four corners of a rectangle around (3, 1): variances 4 and 1 along the axes."""
    projection = Projection(2, 2)
    corners = torch.tensor([[5.0, 2], [5, 0], [1, 2], [1, 0]])
    projection.fit(corners, fitted_on="corners")
    torch.testing.assert_close(projection.weight.detach(), torch.tensor([[0.5, 0.0], [0.0, 1.0]]))
    torch.testing.assert_close(projection.bias.detach(), torch.tensor([-1.5, -1.0]))
    torch.testing.assert_close(projection(corners).detach(), torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]))


def test_it_learns_on() -> None:
    projection = Projection(6, 3)
    projection.fit(VECTORS, fitted_on="noise")
    vectors = VECTORS[:4].clone().requires_grad_()
    l2(projection(vectors))[:, 0].sum().backward()
    for tensor in (projection.weight, projection.bias, vectors):
        assert tensor.grad is not None
        assert tensor.grad.any()
    assert set(projection.state_dict()) == {"weight", "bias", "count"}


def test_nothing_stays_nothing() -> None:
    projection = Projection(6, 3)
    projection.fit(VECTORS, fitted_on="noise")
    assert not projection(torch.zeros(2, 6)).any()
    assert projection(VECTORS[:0]).shape == (0, 3)


def test_mistakes_are_named() -> None:
    with pytest.raises(NotFittedError, match="Projection: expected a fitted part, found an unfitted one"):
        Projection(6, 3)(VECTORS)
    with pytest.raises(ValueError, match=r"dim: expected at most the length of the vectors \(6\), found 7"):
        Projection(6, 7)
    with pytest.raises(ValueError, match=r"dim: expected 1 to 2 \(3 vectors of length 6"):
        Projection(6, 3).fit(VECTORS[:3], fitted_on="too few")
    with pytest.raises(ValueError, match=r"vectors: expected shape \(any, 6\), found \(3, 5\)"):
        Projection(6, 3).fit(VECTORS[:3, :5], fitted_on="others")


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
    with pytest.raises(NotFittedError, match="PcaBasis: expected a fitted part, found an unfitted one"):
        PcaBasis(3, 2)(torch.zeros(1, 3))
    with pytest.raises(ValueError, match=r"vectors: expected shape \(any, 3\), found \(2, 4\)"):
        PcaBasis(3, 2).fit(torch.zeros(2, 4), fitted_on="noise")
    with pytest.raises(ValueError, match=r"dim: expected 1 to 1 \(2 vectors of length 3"):
        PcaBasis(3, 2).fit(torch.eye(3)[:2], fitted_on="noise")
