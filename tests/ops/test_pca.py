from __future__ import annotations

import pytest
import torch
from torch import Tensor

from objemb.ops.pca import PrincipalComponents, learned_map, pca_map, principal_components

#: Corners of a rectangle around (3, 1): variances 4 and 1 along the axes.
CORNERS = torch.tensor([[5.0, 2], [5, 0], [1, 2], [1, 0]])


def of(vectors: Tensor) -> PrincipalComponents:
    return principal_components(lambda: vectors.split(3))


def test_by_hand() -> None:
    found = of(CORNERS)
    assert found.mean.tolist() == [3, 1]
    assert found.variances.tolist() == pytest.approx([4, 1])
    assert torch.allclose(found.directions, torch.eye(2).double())
    assert found.mean.dtype == found.variances.dtype == found.directions.dtype == torch.float64
    assert found.rank == 2
    assert of(torch.tensor([[5.0, 2], [1, 2]])).rank == 1
    assert of(torch.ones(4, 3)).rank == 0


@pytest.mark.parametrize(("power", "scale"), [(0.0, [1.0, 1]), (0.25, [2**-0.5, 1]), (0.5, [0.5, 1])])
def test_maps_shrink_directions_by_their_variance(power: float, scale: list[float]) -> None:
    map_ = of(CORNERS).map(2, power)
    assert torch.allclose(map_.projection, torch.tensor(scale).diag())
    assert map_.centre.tolist() == [3, 1]
    assert map_.projection.dtype == map_.centre.dtype == torch.float32
    assert torch.allclose(map_.projection, pca_map(CORNERS, 2, power).projection)


def test_the_first_directions_can_be_left_out() -> None:
    vectors = torch.randn(50, 5, generator=torch.Generator().manual_seed(0))
    components = of(vectors)
    all_of_them = components.map(5, 0.5).projection
    assert torch.equal(components.map(2, 0.5, dropped=3).projection, all_of_them[3:])
    assert torch.equal(components.map(2, 0.5).projection, all_of_them[:2])


def test_the_learned_map_with_pairs_that_differ_alike_is_that_of_pca() -> None:
    generator = torch.Generator().manual_seed(0)
    things = torch.randn(40, 3, generator=generator) * torch.tensor([3.0, 2.0, 1.0])
    steps = torch.eye(3).repeat(14, 1)[:39]  # the scatter within pairs is a third of the identity
    vectors = torch.cat([things[:39], things[:39] + steps])
    pairs = torch.stack([torch.arange(39), torch.arange(39) + 39], dim=1)
    learned, pca = learned_map(vectors, pairs), pca_map(vectors, power=0.0)
    cosines = torch.nn.functional.normalize(learned.projection) @ pca.projection.T
    # whitening within pairs moves the mean, about which the scatter is taken, to that of the queries
    assert torch.allclose(cosines.abs(), torch.eye(3), atol=0.05)
    assert torch.allclose(learned.projection.norm(dim=1), torch.full((3,), 3**0.5), atol=1e-4)
    assert torch.allclose(learned.centre, things[:39].mean(dim=0), atol=1e-5)
