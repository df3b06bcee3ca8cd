from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from objemb.ops import nmf as module
from objemb.ops.nmf import INITS, Nmf


def noise(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Not negative, half of it zeros, as the maps of a network that ends in a ReLU."""
    return (
        torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu().to(dtype)
    )


def product(a: list[list[float]], b: list[list[float]]) -> list[list[float]]:
    return [[sum(x * y for x, y in zip(row, column, strict=True)) for column in zip(*b, strict=True)] for row in a]


def transposed(a: list[list[float]]) -> list[list[float]]:
    return [list(row) for row in zip(*a, strict=True)]


def updated(a: list[list[float]], above: list[list[float]], below: list[list[float]]) -> list[list[float]]:
    return [
        [x * (n / (d if d != 0 else 1e-7)) for x, n, d in zip(*rows, strict=True)]
        for rows in zip(a, above, below, strict=True)
    ]


def error(v: list[list[float]], w: list[list[float]], h: list[list[float]]) -> float:
    left = product(w, h)
    return math.sqrt(sum((x - y) ** 2 for rows in zip(v, left, strict=True) for x, y in zip(*rows, strict=True)))


def reference(
    values: Tensor, weights: Tensor, basis: Tensor, iterations: int, tolerance: float, learn_basis: bool = True
) -> tuple[Tensor, Tensor, list[float]]:
    """The updates as the paper writes them, number by number."""
    v, w, h = values.tolist(), weights.tolist(), basis.tolist()
    errors = [error(v, w, h)]
    for step in range(1, iterations + 1):
        w = updated(w, product(v, transposed(h)), product(w, product(h, transposed(h))))
        if learn_basis:
            h = updated(h, product(transposed(w), v), product(product(transposed(w), w), h))
        if step % 10 == 0 or step == iterations:
            errors.append(error(v, w, h))
            if (errors[-2] - errors[-1]) / errors[0] <= tolerance:
                break
    return torch.tensor(w, dtype=torch.float64), torch.tensor(h, dtype=torch.float64), errors


def random_start(values: Tensor, rank: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    basis = torch.randn(rank, values.shape[1], generator=generator, dtype=torch.float64).abs()
    weights = torch.randn(len(values), rank, generator=generator, dtype=torch.float64).abs()
    size = math.sqrt(float(values.double().mean()) / rank)
    return weights * size, basis * size


def nndsvd_start(values: Tensor, rank: int, fill: bool) -> tuple[Tensor, Tensor]:
    """One singular triplet after the other (Boutsidis and Gallopoulos 2008)."""
    u, s, v = torch.linalg.svd(values.double(), full_matrices=False)
    weights, basis = [], []
    for j in range(rank):
        left, right = u[:, j], v[j]
        if j == 0:
            left, right = left.abs(), right.abs()
        halves = [(left.clamp_min(0), right.clamp_min(0)), ((-left).clamp_min(0), (-right).clamp_min(0))]
        left, right = max(halves, key=lambda half: float(half[0].norm() * half[1].norm()))
        size = (s[j] * left.norm() * right.norm()).sqrt()
        weights.append(size * left / left.norm())
        basis.append(size * right / right.norm())
    found = torch.stack(weights, dim=1), torch.stack(basis)
    return tuple(torch.where(x > 0, x, values.double().mean()) if fill else x for x in found)  # type: ignore[return-value]


@pytest.mark.parametrize("init", INITS)
def test_against_the_definition(init: str) -> None:
    values = noise(12, 9)
    start = random_start(values, 3, 5) if init == "random" else nndsvd_start(values, 3, init == "nndsvda")
    for iterations, tolerance in ((1, 0.0), (25, 0.0), (200, 1e-4)):
        (found,) = Nmf(3, init, iterations, tolerance, seed=5).fit([values])
        weights, basis, errors = reference(values, *start, iterations, tolerance)
        assert (found.weights - weights).abs().max() < 1e-9
        assert (found.basis - basis).abs().max() < 1e-9
        assert found.errors.tolist() == pytest.approx(errors, abs=1e-9)


def test_a_case_by_hand() -> None:
    """One factor: the first update of the weights gives the mean along the basis, the second its answer."""
    values = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
    (found,) = Nmf(1, "nndsvd").fit([values])
    assert torch.allclose(found.weights @ found.basis, values, atol=1e-6)
    assert torch.allclose(found.weights.norm(), found.basis.norm(), atol=1e-5), (
        "both take the root of the singular value"
    )
    assert len(found.errors) == 2, "nothing is left to be gained"
    assert float(found.errors[-1]) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("init", INITS)
def test_the_error_never_grows(init: str, dtype: torch.dtype) -> None:
    allowed = 1e-6 if dtype == torch.float32 else 1e-12
    for seed, (rows, columns) in enumerate([(40, 60), (60, 40), (30, 30)]):
        values = noise(rows, columns, seed, dtype)
        errors = [
            float(Nmf(4, init, iterations, 0.0).fit([values])[0].errors[-1]) for iterations in (*range(1, 12), 30, 80)
        ]
        start = float(Nmf(4, init, 1, 0.0).fit([values])[0].errors[0])
        for before, after in zip([start, *errors], errors, strict=False):
            assert after <= before * (1 + allowed)
        history = Nmf(4, init, 200, 0.0).fit([values])[0].errors
        assert bool((history.diff() <= allowed * history[0]).all())


def test_a_known_product_is_found() -> None:
    parts = torch.eye(3, dtype=torch.float64).repeat_interleave(4, dim=1)
    values = noise(20, 3) @ parts
    (found,) = Nmf(3, iterations=2000, tolerance=0.0).fit([values])
    assert float(found.errors[-1]) < 1e-3 * float(found.errors[0])
    unit = found.basis / found.basis.norm(dim=1, keepdim=True)
    assert torch.allclose((unit @ parts.T / 2).amax(dim=0), torch.ones(3, dtype=torch.float64), atol=1e-2)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("block", [1, 10**6])
def test_alone_or_with_others_of_other_sizes(init: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BLOCK_CPU", block)
    matrices = [noise(rows, 8, seed, torch.float32) for seed, rows in enumerate((5, 30, 1, 12, 30, 3))]
    together = Nmf(4, init).fit(matrices)
    for matrix, found in zip(matrices, together, strict=True):
        assert found.weights.shape == (len(matrix), min(4, len(matrix)))
        assert found.basis.shape == (min(4, len(matrix)), 8)
        (alone,) = Nmf(4, init).fit([matrix])
        assert len(alone.errors) == len(found.errors)
        assert (alone.weights - found.weights).abs().max() < 1e-5
        assert (alone.basis - found.basis).abs().max() < 1e-5


def test_a_basis_that_is_known_stays() -> None:
    basis = noise(3, 8, 7)
    matrices = [noise(rows, 8, seed) for seed, rows in enumerate((5, 9))]
    before = basis.clone()
    for matrix, found in zip(matrices, Nmf(iterations=40, tolerance=0.0).project(matrices, basis), strict=True):
        assert torch.equal(basis, before)
        assert torch.equal(found.basis, before)
        weights, _, errors = reference(matrix, random_start(matrix, 3)[0], basis, 40, 0.0, learn_basis=False)
        assert (found.weights - weights).abs().max() < 1e-9
        assert found.errors.tolist() == pytest.approx(errors, abs=1e-9)
    assert Nmf().project([], basis) == []


@pytest.mark.parametrize("init", INITS)
def test_hostile_matrices(init: str) -> None:
    zeros, spike = torch.zeros(6, 5), torch.zeros(6, 5)
    spike[2, 3] = 7
    gaps = noise(6, 5, dtype=torch.float32)
    gaps[1], gaps[:, 2] = 0, 0
    for matrix in (zeros, spike, gaps, torch.ones(1, 1), spike * 1e-9, gaps * 1e9):
        (found,) = Nmf(4, init).fit([matrix])
        for part in (found.weights, found.basis, found.errors):
            assert torch.isfinite(part).all()
            assert (part >= 0).all()
        assert float(found.errors[-1]) <= float(matrix.norm()) * (1 + 1e-5)
    (found,) = Nmf(4, init).fit([zeros])
    assert found.weights.abs().max() == found.basis.abs().max() == 0
    assert Nmf(4, init).fit([]) == []


def test_seeds_and_repetition() -> None:
    values = noise(9, 7)
    first, again, other = (Nmf(2, seed=seed).fit([values])[0].basis for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(Nmf(2, "nndsvd", seed=0).fit([values])[0].basis, Nmf(2, "nndsvd", seed=1).fit([values])[0].basis)


def test_refuses_nonsense() -> None:
    with pytest.raises(ValueError, match=r"matrix: expected elements of at least 0, found -2"):
        Nmf().fit([torch.tensor([[1.0, -2.0]])])
    with pytest.raises(ValueError, match="matrix: expected finite values, found 1 NaN or infinite of 2"):
        Nmf().fit([torch.tensor([[1.0, math.nan]])])
    with pytest.raises(ValueError, match=r"matrix: expected at least one row and column, found shape \(0, 4\)"):
        Nmf().fit([torch.zeros(0, 4)])
    with pytest.raises(ValueError, match=r"matrix: expected shape \(any, 3\), found \(2, 4\)"):
        Nmf().fit([torch.zeros(2, 3), torch.zeros(2, 4)])
    with pytest.raises(ValueError, match=r"matrix: expected shape \(any, 3\), found \(2, 4\)"):
        Nmf().project([torch.zeros(2, 3)], torch.zeros(2, 4))
    with pytest.raises(ValueError, match="init: expected one of 'random', 'nndsvd', 'nndsvda', found 'svd'"):
        Nmf(init="svd")
    with pytest.raises(ValueError, match="rank: expected an integer of 1 or more, found 0"):
        Nmf(0)
