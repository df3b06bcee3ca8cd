"""Principal component analysis, and the affine maps that follow from it: projections and whitenings.

Whitening of unit vectors by PCA: Jegou and Chum, "Negative evidences and co-occurrences in image retrieval", 2012.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from objemb import checks
from objemb.ops.affine import AffineMap
from objemb.ops.learned_whitening import whiten_within_pairs
from objemb.ops.tensors import l2

#: Directions with less than this share of the largest variance are rounding, not data.
NO_VARIANCE = 1e-12
#: Vectors that are made float64 at a time.
BLOCK = 65536


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """In which directions vectors vary, that of the largest variance first; all in float64.

    Attributes:
        mean: ``(D,)``.
        variances: ``(R,)``, falling, none below 0.
        directions: ``(R, D)``, orthonormal rows; those without any variance may be zeros.
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor

    @property
    def rank(self) -> int:
        """The number of directions with any variance."""
        return int((self.variances > NO_VARIANCE * self.variances[:1]).sum())

    def map(self, dim: int, power: float, *, dropped: int = 0) -> AffineMap:
        """``diag(variances ** -power) U^T (v - mean)``, as float32.

        Args:
            dim: Of the result: how many directions U has, all of them with some variance where ``power`` is above 0.
            power: 0.5 whitens, 0 only turns.
            dropped: How many of the first directions are left out before these.
        """
        kept = slice(dropped, dropped + dim)
        projection = self.directions[kept] * self.variances[kept, None] ** -power
        return AffineMap(projection.float(), self.mean.float())


@torch.no_grad()
def pca_map(vectors: Tensor, dim: int | None = None, power: float = 0.5) -> AffineMap:
    """Subtracts the mean, projects on the first principal directions, and shrinks each by its variance.

    Args:
        vectors: float ``(N, D)``, N at least 2. Fewer vectors than D are fine: at most N - 1 directions remain.
        dim: How many directions to keep; None for all that have any variance.
        power: Of the variances: 0.5 whitens fully, 0.25 half way, 0 is plain PCA.

    Returns:
        A map with a mean, float32, on the device of the vectors.

    Raises:
        ValueError: Too few vectors, all of them equal, or a ``dim`` above the number of directions with variance.
    """
    checks.finite("vectors", checks.shape("vectors", vectors, (None, None)))
    checks.between("power", power, 0, 1)
    if len(vectors) < 2:
        raise ValueError(f"vectors: expected at least 2 to fit a whitening, found {len(vectors)}")
    few = len(vectors) <= vectors.shape[1]
    components = _components_of_few(vectors) if few else principal_components(lambda: vectors.split(BLOCK))
    return components.map(_checked_dim(dim, components, vectors), power)


@torch.no_grad()
def learned_map(
    vectors: Tensor, pairs: Tensor, dim: int | None = None, power: float = 0.0, *, ridge: float = 0.0
) -> AffineMap:
    """The learned whitening of Radenovic et al.: what differs within pairs of vectors of the same thing counts little.

    The vectors are whitened within pairs, see :func:`objemb.ops.learned_whitening.whiten_within_pairs`, and then
    projected on their first principal directions.

    Args:
        vectors: float ``(N, D)``.
        pairs: int64 ``(P, 2)``: the rows of a query and of its positive.
        dim: How many directions to keep, those of the largest variance over all vectors; None for all.
        power: Of the variances; 0 as the authors do it.
        ridge: See :func:`~objemb.ops.learned_whitening.whiten_within_pairs`.

    Returns:
        A map with a mean, float32, on the device of the vectors.

    Raises:
        ValueError: No pairs, rows that do not exist, pairs without any difference, or a ``dim`` above the number of
            directions with variance.
    """
    checks.finite("vectors", checks.shape("vectors", vectors, (None, None)))
    checks.between("power", power, 0, 1)
    mean, within = whiten_within_pairs(vectors, pairs, ridge)
    scatter = torch.zeros_like(within)
    for block in vectors.split(BLOCK):
        whitened = (block - mean) @ within.T
        scatter += whitened.T @ whitened / len(vectors)
    components = PrincipalComponents(mean, *_eigenvectors(scatter))
    kept = _checked_dim(dim, components, vectors)
    projection = components.directions[:kept] * components.variances[:kept, None] ** -power @ within
    return AffineMap(projection.float(), mean.float())


def principal_components(blocks: Callable[[], Iterable[Tensor]]) -> PrincipalComponents:
    """Principal components of vectors that need not be in memory together.

    Args:
        blocks: Called twice, gives all vectors both times, as float blocks ``(n, D)``, at least one.

    Returns:
        All ``D`` directions.
    """
    sums = [(block.sum(dim=0, dtype=torch.float64), len(block)) for block in blocks()]
    count = sum(n for _, n in sums)
    mean = torch.stack([s for s, _ in sums]).sum(dim=0) / count
    covariance = torch.zeros(len(mean), len(mean), dtype=torch.float64, device=mean.device)
    for block in blocks():
        centred = block - mean
        covariance += centred.T @ centred / count
    return PrincipalComponents(mean, *_eigenvectors(covariance))


def _components_of_few(vectors: Tensor) -> PrincipalComponents:
    """As :func:`principal_components`, of no more vectors than they are long, with ``N`` directions.

    They come from the products of the vectors with each other, of which there are fewer than of their elements. A
    direction without variance is one of zeros.
    """
    mean = vectors.mean(dim=0, dtype=torch.float64)
    products = torch.zeros(len(vectors), len(vectors), dtype=torch.float64, device=vectors.device)
    for block, centre in zip(vectors.split(BLOCK, dim=1), mean.split(BLOCK), strict=True):
        centred = block - centre
        products += centred @ centred.T / len(vectors)
    variances, shares = _eigenvectors(products)
    shares = shares * (variances > NO_VARIANCE * variances[:1])[:, None]
    columns = zip(vectors.split(BLOCK, dim=1), mean.split(BLOCK), strict=True)
    directions = torch.cat([shares @ (block - centre) for block, centre in columns], dim=1)
    return PrincipalComponents(mean, variances, _pointing(l2(directions)))


def _eigenvectors(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues ``(D,)`` from large to small, none below 0, and eigenvectors ``(D, D)`` as rows."""
    values, vectors = torch.linalg.eigh(covariance)
    return values.flip(0).clamp_min(0), _pointing(vectors.T.flip(0))


def _pointing(directions: Tensor) -> Tensor:
    """Eigenvectors ``(N, D)``, which may point either way, with a positive largest element: every machine agrees."""
    return directions * directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()


def _checked_dim(dim: int | None, components: PrincipalComponents, vectors: Tensor) -> int:
    """How many directions to keep, at most those with any variance; all of these for None."""
    count, length = vectors.shape
    rank = components.rank
    if rank == 0:
        raise ValueError(f"vectors: expected some that differ to fit a whitening, found {count} equal ones")
    if dim is None:
        return rank
    if not 1 <= dim <= rank:
        raise ValueError(
            f"dim: expected 1 to {rank} ({count} vectors of length {length} vary in {rank} directions), found {dim}"
        )
    return dim
