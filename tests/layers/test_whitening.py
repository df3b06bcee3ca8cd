from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor

from objemb.layers.whitening import Whitening
from objemb.ops.tensors import l2


def correlated(count: int, length: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(length, length, generator=generator)
    return l2(torch.randn(count, length, generator=generator) @ mixing + 1)


def test_full_whitening_gives_unit_covariance_before_the_norm() -> None:
    vectors = correlated(500, 6)
    whitening = Whitening.fit(vectors, fitted_on="noise")
    projected = (vectors - whitening.mean) @ whitening.projection.T
    covariance = projected.T @ projected / len(projected)
    assert torch.allclose(covariance, torch.eye(6), atol=1e-3)
    assert torch.allclose(whitening(vectors), l2(projected))
    assert torch.allclose(whitening.map(vectors), projected)
    assert whitening.map(torch.zeros(1, 6)).abs().max() == 0


@pytest.mark.parametrize("power", [0.0, 0.25, 0.5])
def test_against_the_formula(power: float) -> None:
    vectors = correlated(200, 5)
    centred = vectors.double() - vectors.double().mean(0)
    variances, directions = torch.linalg.eigh(centred.T @ centred / 200)
    expected = l2(centred @ directions.flip(1)[:, :3] / variances.flip(0)[:3] ** power)
    found = Whitening.fit(vectors, 3, power, fitted_on="noise")(vectors)
    signs = (expected * found).sum(0).sign()
    assert torch.allclose(found.double(), expected * signs, atol=1e-5)


def test_signs_do_not_depend_on_the_order_of_the_vectors() -> None:
    vectors = correlated(50, 4)
    first, second = (Whitening.fit(v, fitted_on="noise") for v in (vectors, vectors.flip(0)))
    assert torch.allclose(first.projection, second.projection, atol=1e-4)
    largest = first.projection.gather(1, first.projection.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()


def test_fewer_vectors_than_dimensions() -> None:
    whitening = Whitening.fit(correlated(5, 40), fitted_on="noise")
    assert whitening.dim == 4
    assert torch.isfinite(whitening(correlated(7, 40, seed=1))).all()


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_of_few_long_vectors_as_of_many(power: float, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = correlated(12, 30)
    found = Whitening.fit(vectors, 5, power, fitted_on="noise")
    variances, directions = torch.linalg.eigh(torch.cov(vectors.double().T, correction=0))
    expected = directions.flip(1)[:, :5] * variances.flip(0)[:5] ** -power
    signs = (expected * found.projection.T).sum(0).sign()
    assert torch.allclose(found.projection.T.double(), expected * signs, rtol=1e-4, atol=1e-4)
    assert (found.projection.gather(1, found.projection.abs().argmax(1, keepdim=True)) > 0).all()
    monkeypatch.setattr("objemb.ops.pca.BLOCK", 7)
    assert torch.allclose(Whitening.fit(vectors, 5, power, fitted_on="noise").projection, found.projection, atol=1e-4)


def test_dead_channels_are_left_out() -> None:
    vectors = correlated(100, 6)
    vectors[:, 2] = 0.0
    vectors[:, 5] = vectors[:, 1]
    whitening = Whitening.fit(vectors, fitted_on="noise")
    assert whitening.dim == 4
    assert whitening.projection.abs().max() < 1e4


def test_zero_vectors_stay_zero() -> None:
    whitening = Whitening.fit(correlated(30, 4), fitted_on="noise")
    out = whitening(torch.stack([torch.zeros(4), torch.ones(4)]))
    assert out[0].abs().max() == 0
    assert torch.allclose(out[1].norm(), torch.tensor(1.0))
    assert whitening(torch.zeros(0, 4)).shape == (0, 4)


def test_settings_and_state_rebuild_it() -> None:
    vectors = correlated(30, 4)
    whitening = Whitening.fit(vectors, 3, 0.25, fitted_on="30 noise regions")
    settings = json.loads(json.dumps(whitening.settings()))
    assert settings == {"input_dim": 4, "dim": 3, "power": 0.25, "fitted_on": "30 noise regions", "count": 30}
    rebuilt = Whitening(**settings)
    rebuilt.load_state_dict(whitening.state_dict())
    assert torch.equal(rebuilt(vectors), whitening(vectors))


def test_refuses_what_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="at least 2 to fit a whitening, found 1"):
        Whitening.fit(torch.ones(1, 4), fitted_on="x")
    with pytest.raises(ValueError, match="some that differ to fit a whitening, found 9 equal ones"):
        Whitening.fit(torch.ones(9, 4), fitted_on="x")
    with pytest.raises(
        ValueError, match=r"dim: expected 1 to 4 \(5 vectors of length 40 vary in 4 directions\), found 9"
    ):
        Whitening.fit(correlated(5, 40), 9, fitted_on="x")
    with pytest.raises(ValueError, match="dim: expected 1 to 4"):
        Whitening.fit(correlated(50, 4), 0, fitted_on="x")
    with pytest.raises(ValueError, match="expected finite values, found 1 NaN"):
        Whitening.fit(torch.tensor([[1.0, float("nan")], [0.0, 1.0]]), fitted_on="x")
    with pytest.raises(ValueError, match="power: expected a number from 0 to 1, found 2"):
        Whitening.fit(correlated(5, 4), power=2, fitted_on="x")


def test_refuses_vectors_of_another_length() -> None:
    with pytest.raises(ValueError, match=r"vectors: expected shape \(any, 4\), found \(2, 5\)"):
        Whitening.fit(correlated(30, 4), fitted_on="x")(torch.zeros(2, 5))
