from __future__ import annotations

import pytest
import torch
from torch import Tensor

from objemb.checks import NotFittedError
from objemb.pooling._selection import selection
from objemb.pooling.triangulation import Triangulation

MINIMAL = {"dim": 3, "words": 4, "dropped": 2}


def noise(count: int, length: int, seed: int = 0) -> Tensor:
    return torch.randn(count, length, generator=torch.Generator().manual_seed(seed))


def fitted(mask: str = "max", power: float = 0.5, dropped: int = 2) -> Triangulation:
    pooling = Triangulation(dim=3, words=4, dropped=dropped, mask=mask, power=power)
    pooling.connect(6)
    pooling.fit(noise(400, 6), fitted_on="noise")
    return pooling


def embedding(pooling: Triangulation, cell: Tensor) -> Tensor:
    """Of one cell, in float64, from the definition."""
    reduced = pooling.basis.double() @ (cell.double() - pooling.mean.double())
    reduced = reduced / reduced.norm()
    directions = [(reduced - c) / (reduced - c).norm() for c in pooling.centres.double()]
    return pooling.whitening.double() @ (torch.cat(directions) - pooling.direction_mean.double())


def slow(pooling: Triangulation, maps: Tensor, weights: Tensor | None = None) -> Tensor:
    rows = []
    chosen = torch.ones(maps[:, 0].shape, dtype=torch.bool)
    if pooling.mask != "none":
        chosen = selection(maps, weights, pooling.mask)
    for number, one in enumerate(maps):
        total, count = torch.zeros(len(pooling.whitening), dtype=torch.float64), 0.0
        for y in range(maps.shape[2]):
            for x in range(maps.shape[3]):
                weight = 1.0 if weights is None else float(weights[number, y, x])
                if chosen[number, y, x] and one[:, y, x].any() and weight:
                    total += weight * embedding(pooling, one[:, y, x])
                    count += weight
        mean = total / count if count else total
        rows.append(mean.sign() * mean.abs() ** pooling.power)
    return torch.stack(rows)


def test_by_hand() -> None:
    pooling = Triangulation(dim=1, words=2, dropped=0, mask="none", power=1)
    pooling.connect(2)
    pooling.mean.copy_(torch.tensor([1.0, 0.0]))
    pooling.basis.copy_(torch.tensor([[1.0, 0.0]]))
    pooling.centres.copy_(torch.tensor([[-0.5], [0.5]]))
    pooling.direction_mean.copy_(torch.tensor([0.5, 0.0]))
    pooling.whitening.copy_(torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
    pooling.count.fill_(1)
    # cells (3, 0) and (1.5, 7) are reduced to 1: to the right of both centres; (0, 1) to -1: to the left of both
    maps = torch.tensor([[3.0, 0.0], [1.5, 7.0], [0.0, 1.0]]).T[None, :, None]
    right, left = torch.tensor([2 * 0.5, 3 * 1.0]), torch.tensor([2 * -1.5, 3 * -1.0])
    assert torch.allclose(pooling(maps), ((2 * right + left) / 3)[None])
    assert torch.allclose(pooling(maps, torch.tensor([[[0.0, 1.0, 1.0]]])), ((right + left) / 2)[None])


@pytest.mark.parametrize("mask", ["none", "max", "sum"])
@pytest.mark.parametrize("power", [0.5, 1])
def test_against_the_definition(mask: str, power: float) -> None:
    pooling = fitted(mask, power)
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(3, 6, 5, 4, generator=generator)
    maps[1, :, 2, 1] = 0
    weights = torch.rand(3, 5, 4, generator=generator)
    weights[0, :2] = 0
    tolerance = 1e-5 if power == 1 else 1e-4  # the root of what is nearly 0 enlarges rounding
    assert (pooling(maps) - slow(pooling, maps)).abs().max() < tolerance
    assert (pooling(maps, weights) - slow(pooling, maps, weights)).abs().max() < tolerance
    cells = torch.tensor([[0, 0, 0, 4, 5], [2, 1, 1, 3, 4], [1, 1, 2, 2, 3], [1, 3, 4, 4, 5], [2, 0, 3, 2, 5]])
    found = pooling.rectangles(maps, cells)
    assert found.shape == (5, 10)
    for row, (n, x1, y1, x2, y2) in enumerate(cells.tolist()):
        assert (found[row] - slow(pooling, maps[n : n + 1, :, y1:y2, x1:x2])[0]).abs().max() < tolerance


def test_embeddings_of_what_was_learned_from_are_white() -> None:
    pooling = fitted("none", dropped=0)
    embedded, _ = pooling._embedded(noise(400, 6).T[None, :, :, None])
    rows = embedded[0, :, :, 0].T.double()
    assert rows.mean(dim=0).abs().max() < 1e-3
    assert (rows.T @ rows / len(rows) - torch.eye(12)).abs().max() < 1e-2


def test_the_first_directions_are_dropped() -> None:
    full, less = fitted(dropped=0), fitted(dropped=3)
    assert torch.equal(full.whitening[3:], less.whitening)
    lengths = full.whitening.norm(dim=1)
    assert (lengths[1:] >= lengths[:-1]).all(), "the largest variance first, which whitening shrinks most"
    assert less.length(6) == 9


def test_fitting_repeats() -> None:
    for name, state in fitted().state_dict().items():
        assert torch.equal(state, fitted().state_dict()[name]), name


def test_nothing_to_see_is_zeros() -> None:
    pooling = fitted()
    assert pooling(torch.zeros(2, 6, 3, 3)).abs().max() == 0
    assert pooling(torch.zeros(0, 6, 3, 3)).shape == (0, 10)
    assert pooling.rectangles(torch.zeros(1, 6, 3, 3), torch.tensor([[0, 1, 1, 2, 2]])).abs().max() == 0


def test_mistakes_are_named() -> None:
    fresh = Triangulation(dim=3, words=4, dropped=2)
    with pytest.raises(ValueError, match=r"dim: expected at most the number of channels \(2\), found 3"):
        fresh.connect(2)
    fresh.connect(6)
    with pytest.raises(NotFittedError, match="triangulation: expected a fitted part"):
        fresh(torch.rand(1, 6, 3, 3))
    with pytest.raises(RuntimeError, match="expected one not connected yet, found 6 channels"):
        fresh.connect(6)
    with pytest.raises(
        ValueError, match=r"dim: expected 1 to 2 \(3 vectors of length 6 vary in 2 directions\), found 3"
    ):
        fresh.fit(noise(3, 6), fitted_on="x")
    with pytest.raises(ValueError, match=r"dim \* words = 12, found rank \d+ for 8 features; use more photos"):
        fresh.fit(noise(8, 6), fitted_on="x")
    with pytest.raises(ValueError, match=r"dropped: expected fewer than dim \* words \(12\), found 12"):
        Triangulation(dim=3, words=4, dropped=12)
    with pytest.raises(ValueError, match="mask: expected one of 'none', 'max', 'sum', found 'min'"):
        Triangulation(mask="min")
    with pytest.raises(ValueError, match="power: expected a number from 0 to 1, found 2"):
        Triangulation(power=2)
