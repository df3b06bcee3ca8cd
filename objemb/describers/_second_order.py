"""Second-order pooling of the correlations of channels (Jeong et al., "Regional deep feature aggregation", equation
5)."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks

#: Number of regions whose weighted features, a copy of all features each, are in memory at a time.
BLOCK = 16
#: Regularisation added to every variance, as a share of their mean. With fewer cells than channels, some variances are
#: 0.
REGULARISATION = 1e-3


def second_moments(features: Tensor, weights: Tensor) -> Tensor:
    """``G = sum_p w_p f_p f_p^T / sum_p w_p`` for all regions of a map.

    Use float64 if the logarithm of the result is taken: it depends on the smallest variances, for which float32 is not
    precise enough.

    Args:
        features: float ``(P, K)``, the P cells of a map.
        weights: float ``(M, P)``, not negative, the weight of each cell in each region.

    Returns:
        float ``(M, K, K)``; all 0 for a region whose weights are all 0.
    """
    checks.shape("features", features, (None, None))
    checks.shape("weights", weights, (None, len(features)))
    total = weights.sum(dim=1, keepdim=True)
    rooted = (weights / total.where(total > 0, torch.ones_like(total))).sqrt()
    return torch.cat([_squared(block[:, :, None] * features) for block in rooted.split(BLOCK)])


def regularised_logm(matrices: Tensor, share: float = REGULARISATION) -> Tensor:
    """Matrix logarithms of ``G + delta I``, where ``delta`` is ``share`` of the mean of G's eigenvalues.

    Computed by a batched eigendecomposition, in which eigenvalues are replaced by their logarithms.

    Args:
        matrices: float ``(M, K, K)``, symmetric, positive semi-definite.
        share: Positive.

    Returns:
        float ``(M, K, K)``, symmetric; all 0 for matrices of zeros.
    """
    checks.positive("share", share)
    delta = share * matrices.diagonal(dim1=1, dim2=2).mean(dim=1)
    values, vectors = torch.linalg.eigh(matrices)
    raised = values.clamp_min(0) + delta[:, None]  # rounding errors may make an eigenvalue negative
    logs = raised.where(raised > 0, torch.ones_like(raised)).log()
    logarithms: Tensor = (vectors * logs[:, None]) @ vectors.mT
    return logarithms


def upper_triangle(matrices: Tensor) -> Tensor:
    """The upper triangles of symmetric matrices ``(M, K, K)`` as vectors ``(M, K (K + 1) / 2)``, row by row.

    Elements off the diagonal are not scaled, as in the paper; multiplied by the square root of 2, they would preserve
    the inner product of the matrices.
    """
    rows, columns = torch.triu_indices(matrices.shape[1], matrices.shape[2], device=matrices.device)
    return matrices[:, rows, columns]


def _squared(matrices: Tensor) -> Tensor:
    """``X^T X`` of matrices ``(M, P, K)``."""
    return matrices.mT @ matrices
