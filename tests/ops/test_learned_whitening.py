from __future__ import annotations

import pytest
import torch
from torch import Tensor

from objemb.layers.whitening import Whitening
from objemb.ops.learned_whitening import whiten_within_pairs
from objemb.ops.tensors import l2


def views(things: int = 40, each: int = 4, length: int = 6, noise: float = 0.4) -> tuple[Tensor, Tensor]:
    """Views of things that differ along the first axis only, and all pairs of neighbouring views."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.full((length,), 0.02)
    spread[0] = noise
    things_ = torch.randn(things, 1, length, generator=generator)
    vectors = things_ + spread * torch.randn(things, each, length, generator=generator)
    rows = torch.arange(things * each).reshape(things, each)
    return vectors.flatten(0, 1), torch.stack([rows[:, :-1], rows[:, 1:]], dim=2).reshape(-1, 2)


def test_by_hand() -> None:
    vectors = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0], [5.0, 6.0]])
    mean, projection = whiten_within_pairs(vectors, torch.tensor([[0, 1], [2, 3]]))
    assert mean.tolist() == [2.5, 2.5]
    expected = torch.tensor([[2.0**-0.5, 0.0], [0.0, 2.0**0.5]])  # C_S is diag(4, 1) / 2
    assert torch.allclose(projection.float(), expected)


def test_differences_within_pairs_have_unit_scatter() -> None:
    vectors, pairs = views()
    _, projection = whiten_within_pairs(vectors, pairs)
    differences = (vectors[pairs[:, 0]] - vectors[pairs[:, 1]]).double() @ projection.T
    assert torch.allclose(differences.T @ differences / len(pairs), torch.eye(6).double(), atol=1e-8)


def test_directions_without_differences_are_regularised() -> None:
    vectors = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    _, projection = whiten_within_pairs(vectors, torch.tensor([[0, 1]]))
    assert torch.allclose(projection.diagonal(), torch.tensor([0.5, 1e5]).double(), rtol=1e-4)
    _, kinder = whiten_within_pairs(vectors, torch.tensor([[0, 1]]), ridge=1.0)
    assert torch.allclose(kinder.diagonal(), torch.tensor([6.0**-0.5, 2.0**-0.5]).double())


def test_the_whitening_against_the_formula() -> None:
    vectors, pairs = views()
    vectors = l2(vectors)
    found = Whitening.fit_pairs(vectors, pairs, 3, fitted_on="views")
    x = vectors.double()
    mean = x[pairs[:, 0]].mean(0)
    difference = x[pairs[:, 0]] - x[pairs[:, 1]]
    inner = torch.linalg.inv(torch.linalg.cholesky(difference.T @ difference / len(pairs)))
    between = inner @ (x - mean).T
    _, directions = torch.linalg.eigh(between @ between.T)
    expected = l2((x - mean) @ (directions.flip(1)[:, :3].T @ inner).T)
    signs = (expected * found(vectors)).sum(0).sign()
    assert (found(vectors).double() - expected * signs).abs().max() < 1e-5
    assert found.settings() == {"input_dim": 6, "dim": 3, "power": 0.0, "fitted_on": "views", "count": 160}


def test_it_separates_instances_better_than_pca_does() -> None:
    vectors, pairs = views(noise=3.0)
    vectors = l2(vectors)
    things = torch.arange(len(vectors)) // 4

    def found(whitening: Whitening) -> float:
        similar = whitening(vectors) @ whitening(vectors).T
        similar.fill_diagonal_(-2)
        return float((things[similar.argmax(dim=1)] == things).float().mean())

    learned = Whitening.fit_pairs(vectors, pairs, fitted_on="views")
    assert found(learned) > found(Whitening.fit(vectors, fitted_on="views")) + 0.1


def test_shrinkage_and_all_directions() -> None:
    vectors, pairs = views()
    whitening = Whitening.fit_pairs(vectors, pairs, power=0.5, fitted_on="views")
    projected = (vectors - whitening.mean) @ whitening.projection.T
    assert whitening.dim == 6
    assert torch.allclose(projected.square().mean(dim=0), torch.ones(6), atol=1e-3)


def test_refuses_what_is_no_pair() -> None:
    vectors = torch.rand(4, 3)
    with pytest.raises(ValueError, match="pairs: expected at least one, found none"):
        Whitening.fit_pairs(vectors, torch.zeros(0, 2, dtype=torch.int64), fitted_on="x")
    for pairs in (torch.tensor([[0, 4]]), torch.tensor([[-1, 0]]), torch.tensor([[0.0, 1.0]])):
        with pytest.raises(ValueError, match="pairs: expected row numbers from 0 to 3"):
            Whitening.fit_pairs(vectors, pairs, fitted_on="x")
    with pytest.raises(ValueError, match="pairs: expected some that differ, found 1 of equal vectors"):
        Whitening.fit_pairs(vectors, torch.tensor([[1, 1]]), fitted_on="x")
    with pytest.raises(ValueError, match=r"pairs: expected shape \(any, 2\)"):
        Whitening.fit_pairs(vectors, torch.zeros(3, 3, dtype=torch.int64), fitted_on="x")
    with pytest.raises(ValueError, match="ridge: expected a number from 0"):
        Whitening.fit_pairs(vectors, torch.tensor([[0, 1]]), ridge=-1, fitted_on="x")
