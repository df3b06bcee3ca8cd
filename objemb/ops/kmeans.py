"""k-means (Lloyd 1982) with k-means++ initialisation (Arthur and Vassilvitskii, "The advantages of careful seeding",
2007)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from objemb import checks

ITERATIONS = 50
SEED = 0
#: Number of distances in memory at a time.
DISTANCES = 1 << 22
#: Number of vectors that are copied at a time.
BLOCK = 8192


@torch.no_grad()
def kmeans(vectors: Tensor, count: int, *, iterations: int = ITERATIONS, seed: int = SEED) -> Tensor:
    """Centres of clusters.

    The same vectors give the same centres, bit for bit on a CPU; an accelerator may sum in another order. A cluster
    that loses all its vectors is moved to the vector that is farthest from its centre.

    Args:
        vectors: float32 ``(N, D)``.
        count: Number of clusters k.
        iterations: Maximum number of rounds of assignment and update; fewer if nothing changes.
        seed: Seed of the initialisation.

    Returns:
        float32 ``(k, D)``.

    Raises:
        ValueError: There are fewer than k different vectors.
    """
    checks.shape("vectors", vectors, (None, None))
    checks.whole("iterations", iterations)
    if len(vectors) < checks.whole("count", count):
        raise ValueError(f"clusters: expected at least {count} vectors for as many clusters, found {len(vectors)}")
    vectors = vectors.float()
    centres = _seeded(vectors, count, seed)
    before = torch.full((len(vectors),), -1, device=vectors.device)
    for _ in range(iterations):
        distances, nearest = nearest_centres(vectors, centres)
        if torch.equal(nearest, before):
            break
        centres = _moved(vectors, centres, nearest, distances)
        before = nearest
    return centres


def nearest_centres(vectors: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Squared distance and index of the nearest centre of each vector, ``(N,)`` and int64 ``(N,)``."""
    nearest = [torch.min(block, dim=1) for block in squared_distances(vectors, centres)]
    none = vectors.new_zeros(0)
    return torch.cat([none, *(f.values for f in nearest)]), torch.cat([none.long(), *(f.indices for f in nearest)])


def squared_distances(vectors: Tensor, centres: Tensor) -> Iterator[Tensor]:
    """Squared distances ``(n, k)``, not negative, for one block of vectors after another."""
    lengths = centres.square().sum(dim=1)
    for block in vectors.split(max(1, DISTANCES // len(centres))):
        products = block @ centres.T
        yield (block.square().sum(dim=1, keepdim=True) - 2 * products + lengths).clamp_min(0)


def _seeded(vectors: Tensor, count: int, seed: int) -> Tensor:
    """Centres among the vectors, each drawn with a probability proportional to its squared distance to the others."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
    chosen = [int(draws[0] * len(vectors))]
    distances = _squared_distance(vectors, chosen[0])
    for number, draw in enumerate(draws[1:], start=1):
        reached = distances.double().cumsum(dim=0)
        if not reached[-1] > 0:
            raise ValueError(f"clusters: expected at least {count} different vectors, found {number}")
        place = int(torch.searchsorted(reached, draw * reached[-1], right=True))  # never a vector at distance 0
        chosen.append(min(place, int(distances.nonzero()[-1])))
        distances = torch.minimum(distances, _squared_distance(vectors, chosen[-1]))
    return vectors[chosen]


def _squared_distance(vectors: Tensor, row: int) -> Tensor:
    """Squared distances ``(N,)`` to one of the vectors, from differences: exactly 0 for equal vectors."""
    return torch.cat([(block - vectors[row]).square().sum(dim=1) for block in vectors.split(BLOCK)])


def _moved(vectors: Tensor, centres: Tensor, nearest: Tensor, distances: Tensor) -> Tensor:
    """The means of the clusters, in float64; an empty cluster moves to the vector farthest from its centre."""
    sizes = torch.bincount(nearest, minlength=len(centres))
    sums = torch.zeros(centres.shape, dtype=torch.float64, device=vectors.device)
    for rows, numbers in zip(vectors.split(BLOCK), nearest.split(BLOCK), strict=True):
        sums.index_add_(0, numbers, rows.double())
    means = (sums / sizes.clamp_min(1)[:, None]).float()
    empty = (sizes == 0).nonzero().flatten()
    means[empty] = vectors[distances.argsort(descending=True, stable=True)[: len(empty)]]
    return means
