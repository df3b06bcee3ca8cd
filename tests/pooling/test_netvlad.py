from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from objemb.checks import NotFittedError
from objemb.ops.tensors import l2
from objemb.pooling.netvlad import NetVlad

MINIMAL = {"clusters": 3}


def fitted(assignment: str = "distance", clusters: int = 4, channels: int = 6) -> NetVlad:
    pooling = NetVlad(clusters=clusters, assignment=assignment)
    pooling.connect(channels)
    pooling.fit(torch.randn(300, channels, generator=torch.Generator().manual_seed(0)), fitted_on="noise")
    return pooling


def slow(pooling: NetVlad, maps: Tensor, weights: Tensor) -> Tensor:
    """One cell after the other, in float64, from the definition."""
    rows = []
    for cells, of_map in zip(maps.double().flatten(2), weights.double().flatten(1), strict=True):
        vlad = torch.zeros(pooling.centres.shape, dtype=torch.float64)
        for x, weight in zip(cells.T, of_map, strict=True):
            if not x.any():
                continue
            x = x / x.norm()
            scores = torch.stack([w @ x for w in pooling.weight.double()])
            if pooling.bias is not None:
                scores = scores + pooling.bias
            shares = scores.exp() / scores.exp().sum()
            for k in range(len(vlad)):
                vlad[k] += weight * shares[k] * (x - pooling.centres[k])
        rows.append(torch.cat([v / v.norm() if v.any() else v for v in vlad]))
    return torch.stack(rows)


def test_by_hand() -> None:
    pooling = NetVlad(clusters=2)
    pooling.connect(2)
    corners = torch.eye(2).repeat(3, 1)
    pooling.fit(corners, fitted_on="two directions")
    first, second = pooling.centres.tolist()
    assert sorted([first, second]) == [[0, 1], [1, 0]]
    # the squared distances of a corner to the two centres are 0 and 2: alpha is ln(100) / 2
    assert torch.allclose(pooling.weight, math.log(100) * pooling.centres)
    assert torch.allclose(pooling.bias, torch.tensor(-math.log(100) / 2))
    maps = torch.tensor([3.0, 0.0])[None, :, None, None]
    vector = pooling(maps)[0].reshape(2, 2)
    near, far = (0, 1) if first == [1, 0] else (1, 0)
    assert vector[near].abs().max() == 0, "the cell lies on this centre"
    assert torch.allclose(vector[far], torch.tensor([1.0, -1.0]) / math.sqrt(2))


@pytest.mark.parametrize("assignment", ["dot", "distance"])
def test_the_second_best_cluster_gets_a_hundredth_at_the_mean_gap(assignment: str) -> None:
    pooling = fitted(assignment)
    features = l2(torch.randn(300, 6, generator=torch.Generator().manual_seed(0)))
    scores = (features @ pooling.weight.T + (0 if pooling.bias is None else pooling.bias)).detach()
    best, second = scores.topk(2, dim=1).values.unbind(1)
    assert float((best - second).mean()) == pytest.approx(math.log(100), rel=1e-4)


def test_distance_is_the_softmax_of_squared_distances() -> None:
    pooling = fitted("distance")
    features = l2(torch.randn(20, 6))
    alpha = float((pooling.weight[0, 0] / pooling.centres[0, 0]).detach()) / 2
    expected = (-alpha * torch.cdist(features, pooling.centres).square()).softmax(dim=1)
    _, found = pooling._assign(features.T[None, :, :, None])
    assert torch.allclose(found[0].T, expected, atol=1e-5)


def test_dot_has_no_bias_and_rows_of_one_length() -> None:
    pooling = fitted("dot")
    assert pooling.bias is None
    assert torch.allclose(F.normalize(pooling.weight), l2(pooling.centres), atol=1e-6)
    lengths = pooling.weight.norm(dim=1)
    assert torch.allclose(lengths, lengths[:1].expand(4), rtol=1e-5)


@pytest.mark.parametrize("assignment", ["dot", "distance"])
def test_against_the_definition(assignment: str) -> None:
    pooling = fitted(assignment)
    generator = torch.Generator().manual_seed(1)
    maps = torch.randn(3, 6, 5, 4, generator=generator)
    maps[0, :, 2, 1] = 0
    weights = torch.rand(3, 5, 4, generator=generator)
    with torch.no_grad():
        assert (pooling(maps) - slow(pooling, maps, torch.ones(3, 5, 4))).abs().max() < 1e-5
        assert (pooling(maps, weights) - slow(pooling, maps, weights)).abs().max() < 1e-5
        cells = torch.tensor([[0, 0, 0, 4, 5], [2, 1, 1, 3, 4], [0, 1, 2, 2, 3], [1, 3, 4, 4, 5], [2, 0, 3, 2, 5]])
        found = pooling.rectangles(maps, cells)
        for row, (n, x1, y1, x2, y2) in enumerate(cells.tolist()):
            cut = maps[n : n + 1, :, y1:y2, x1:x2]
            assert (found[row] - slow(pooling, cut, torch.ones(1, *cut.shape[2:]))[0]).abs().max() < 1e-5


def test_nothing_to_see_is_zeros() -> None:
    pooling = fitted()
    assert pooling(torch.zeros(2, 6, 3, 3)).abs().max() == 0
    assert pooling(torch.zeros(0, 6, 3, 3)).shape == (0, 24)
    assert pooling.rectangles(torch.zeros(1, 6, 3, 3), torch.tensor([[0, 1, 1, 2, 2]])).abs().max() == 0
    assert pooling.rectangles(torch.zeros(0, 6, 3, 3), torch.zeros(0, 5, dtype=torch.int64)).shape == (0, 24)


def test_it_can_be_trained() -> None:
    pooling = fitted()
    maps = torch.randn(2, 6, 4, 4, generator=torch.Generator().manual_seed(2)).requires_grad_()
    pooling(maps)[:, ::3].sum().backward()
    for name, parameter in pooling.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all()
        assert parameter.grad.any(), name
    assert set(dict(pooling.named_parameters())) == {"weight", "bias", "centres"}
    assert maps.grad is not None
    cells = torch.tensor([[0, 0, 0, 2, 2], [1, 1, 1, 4, 3]])
    pooling.zero_grad()
    pooling.rectangles(maps, cells)[:, ::3].sum().backward()
    assert pooling.centres.grad is not None


def test_mistakes_are_named() -> None:
    fresh = NetVlad(clusters=4)
    fresh.connect(6)
    with pytest.raises(NotFittedError, match="netvlad: expected a fitted part"):
        fresh(torch.rand(1, 6, 3, 3))
    with pytest.raises(RuntimeError, match="netvlad: expected one not connected yet, found 6 channels"):
        fresh.connect(6)
    with pytest.raises(ValueError, match="expected at least 4 vectors for as many clusters, found 3"):
        fresh.fit(torch.rand(3, 6), fitted_on="x")
    with pytest.raises(ValueError, match=r"vectors: expected shape \(any, 6\), found \(9, 5\)"):
        fresh.fit(torch.rand(9, 5), fitted_on="x")
    with pytest.raises(ValueError, match=r"maps: expected shape \(any, 6, any, any\), found \(1, 5, 3, 3\)"):
        fitted()(torch.rand(1, 5, 3, 3))
    with pytest.raises(ValueError, match="assignment: expected one of 'dot', 'distance', found 'euclid'"):
        NetVlad(assignment="euclid")
    with pytest.raises(ValueError, match="clusters: expected an integer of 2 or more, found 1"):
        NetVlad(clusters=1)
