"""Principal component analysis, and the affine maps based on it: projections and whitenings.

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

#: Directions with less than this share of the largest variance are taken for rounding errors.
NO_VARIANCE = 1e-12
#: Number of vectors that are converted to float64 at a time.
BLOCK = 65536


@dataclass(frozen=True, eq=False)
class PrincipalComponents:
    """The principal directions of vectors, that of the largest variance first; all in float64.

    Attributes:
        mean: ``(D,)``.
        variances: ``(R,)``, descending, not negative.
        directions: ``(R, D)``, orthonormal rows; those without variance may be zeros.
    """

    mean: Tensor
    variances: Tensor
    directions: Tensor

    @property
    def rank(self) -> int:
        """The number of directions with variance."""
        return int((self.variances > NO_VARIANCE * self.variances[:1]).sum())

    def map(self, dim: int, power: float, *, dropped: int = 0) -> AffineMap:
        """``diag(variances ** -power) U^T (v - mean)``, as float32.

        Args:
            dim: Dimension of the result, the number of directions in U; they must have variance if ``power`` is above
                0.
            power: 0.5 whitens, 0 only rotates.
            dropped: Number of first directions that are left out.
        """
        kept = slice(dropped, dropped + dim)
        projection = self.directions[kept] * self.variances[kept, None] ** -power
        return AffineMap(projection.float(), self.mean.float())


@torch.no_grad()
def pca_map(vectors: Tensor, dim: int | None = None, power: float = 0.5) -> AffineMap:
    """The map that subtracts the mean, projects on the first principal directions, and divides each by a power of its
    variance.

    Args:
        vectors: float ``(N, D)``, N at least 2. With N of at most D, there are at most N - 1 directions.
        dim: Number of directions to keep; None for all with variance.
        power: Power of the variances: 0.5 whitens fully, 0.25 halfway, 0 is plain PCA.

    Returns:
        A map with a mean, float32, on the device of the vectors.

    Raises:
        ValueError: There are too few vectors, all are equal, or ``dim`` exceeds the number of directions with variance.
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
    """The learned whitening of Radenovic et al., which reduces differences within pairs of matching vectors.

    The vectors are whitened within pairs, see :func:`objemb.ops.learned_whitening.whiten_within_pairs`, and then
    projected on their first principal directions.

    Args:
        vectors: float ``(N, D)``.
        pairs: int64 ``(P, 2)``: the rows of a query and of its positive.
        dim: Number of directions to keep, those of the largest variance over all vectors; None for all.
        power: Power of the variances; 0 in the paper.
        ridge: See :func:`~objemb.ops.learned_whitening.whiten_within_pairs`.

    Returns:
        A map with a mean, float32, on the device of the vectors.

    Raises:
        ValueError: There are no pairs, rows do not exist, the vectors of all pairs are equal, or ``dim`` exceeds the
            number of directions with variance.
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
        blocks: Called twice; each time gives all vectors in float blocks ``(n, D)``, at least one.

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
    """The same as :func:`principal_components` for ``N`` vectors with N of at most D, with ``N`` directions.

    Computed from the Gram matrix of the vectors, which is smaller than the covariance. Directions without variance are
    zeros.
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
    """Eigenvalues ``(D,)`` in descending order, not negative, and eigenvectors ``(D, D)`` as rows."""
    values, vectors = torch.linalg.eigh(covariance)
    return values.flip(0).clamp_min(0), _pointing(vectors.T.flip(0))


def _pointing(directions: Tensor) -> Tensor:
    """Eigenvectors ``(N, D)`` with the sign that makes their largest element positive, for the same result on every
    machine."""
    return directions * directions.gather(1, directions.abs().argmax(dim=1, keepdim=True)).sign()


def _checked_dim(dim: int | None, components: PrincipalComponents, vectors: Tensor) -> int:
    """The number of directions to keep, at most those with variance; all of these for None."""
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
