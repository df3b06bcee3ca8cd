from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from objemb.ops import kmeans as module
from objemb.ops.kmeans import kmeans, nearest_centres, squared_distances


def blobs(count: int = 40, seed: int = 0) -> Tensor:
    """Around (0, 0), (10, 0) and (0, 10)."""
    generator = torch.Generator().manual_seed(seed)
    middles = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    return middles.repeat(count, 1) + 0.1 * torch.randn(3 * count, 2, generator=generator)


def in_order(centres: Tensor) -> Tensor:
    return centres[centres.sum(dim=1).argsort()]


def test_by_hand() -> None:
    vectors = torch.tensor([[0.0], [1.0], [10.0], [11.0], [12.0]])
    assert kmeans(vectors, 2).sort(dim=0).values.flatten().tolist() == [0.5, 11.0]
    assert kmeans(vectors, 1).tolist() == [[6.8000001907348633]]
    assert kmeans(vectors, 5).sort(dim=0).values.flatten().tolist() == [0, 1, 10, 11, 12]


@pytest.mark.parametrize("seed", range(5))
def test_finds_the_middles_of_blobs(seed: int) -> None:
    vectors = blobs()
    centres = kmeans(vectors, 3, seed=seed)
    expected = torch.stack([vectors[i::3].mean(dim=0) for i in range(3)])
    assert torch.cdist(centres, expected).amin(dim=1).max() < 1e-5


def test_repeats_and_ends_in_a_fixed_point() -> None:
    vectors = torch.randn(300, 6, generator=torch.Generator().manual_seed(1))
    centres = kmeans(vectors, 7)
    assert torch.equal(centres, kmeans(vectors, 7))
    nearest = torch.cdist(vectors, centres).argmin(dim=1)
    means = torch.stack([vectors[nearest == k].mean(dim=0) for k in range(7)])
    assert torch.allclose(centres, means, atol=1e-5)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = blobs(50)
    whole = kmeans(vectors, 5)
    monkeypatch.setattr(module, "DISTANCES", 40)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert torch.allclose(kmeans(vectors, 5), whole, atol=1e-5)


def test_the_error_never_grows() -> None:
    vectors = torch.rand(200, 3, generator=torch.Generator().manual_seed(2))
    errors = [float(nearest_centres(vectors, kmeans(vectors, 6, iterations=n))[0].sum()) for n in range(1, 12)]
    assert all(later <= earlier + 1e-4 for earlier, later in pairwise(errors))


def test_a_cluster_that_lost_its_vectors_starts_again_at_the_worst_placed_one() -> None:
    vectors = torch.tensor([[0.0], [1.0], [9.0]])
    centres = torch.tensor([[0.0], [100.0]])
    distances, nearest = nearest_centres(vectors, centres)
    assert nearest.tolist() == [0, 0, 0]
    moved = module._moved(vectors, centres, nearest, distances)
    assert torch.allclose(moved, torch.tensor([[10 / 3], [9.0]]))


def test_distances_against_differences() -> None:
    generator = torch.Generator().manual_seed(3)
    vectors, centres = torch.randn(9, 4, generator=generator), torch.randn(3, 4, generator=generator)
    slow = (vectors[:, None] - centres[None]).square().sum(dim=2)
    assert torch.allclose(torch.cat(list(squared_distances(vectors, centres))), slow, atol=1e-5)
    distances, nearest = nearest_centres(vectors[:0], centres)
    assert (distances.shape, nearest.dtype) == ((0,), torch.int64)


def test_refuses_too_few_vectors() -> None:
    with pytest.raises(ValueError, match="expected at least 4 vectors for as many clusters, found 3"):
        kmeans(torch.rand(3, 2), 4)
    with pytest.raises(ValueError, match="expected at least 3 different vectors, found 2"):
        kmeans(torch.tensor([[1.0], [1.0], [2.0], [2.0]]), 3)
    with pytest.raises(ValueError, match="count: expected an integer of 1 or more, found 0"):
        kmeans(torch.rand(3, 2), 0)
