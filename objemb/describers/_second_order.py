"""Second-order pooling: which channels are active together (Jeong et al., "Regional deep feature aggregation",
equation 5)."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks

#: Regions whose weighted features are in memory at once: each is a copy of all features.
BLOCK = 16
#: What is added to every variance, as a share of their mean: fewer cells than channels leave some without any.
REGULARISATION = 1e-3


def second_moments(features: Tensor, weights: Tensor) -> Tensor:
    """``G = sum_p w_p f_p f_p^T / sum_p w_p`` for all regions of a map.

    float64 is called for where logarithms are taken of them: the smallest variances decide there, and float32 knows
    few of their digits.

    Args:
        features: float ``(P, K)``: the P cells of a map.
        weights: float ``(M, P)``, none below 0: how much each cell counts in each region.

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

    All at once, by eigen-decomposition: eigenvectors stay, eigenvalues become their logarithms.

    Args:
        matrices: float ``(M, K, K)``, symmetric, positive semi-definite.
        share: Above 0.

    Returns:
        float ``(M, K, K)``, symmetric; all 0 for matrices of zeros.
    """
    checks.positive("share", share)
    delta = share * matrices.diagonal(dim1=1, dim2=2).mean(dim=1)
    values, vectors = torch.linalg.eigh(matrices)
    raised = values.clamp_min(0) + delta[:, None]  # rounding may leave an eigenvalue below 0
    logs = raised.where(raised > 0, torch.ones_like(raised)).log()
    logarithms: Tensor = (vectors * logs[:, None]) @ vectors.mT
    return logarithms


def upper_triangle(matrices: Tensor) -> Tensor:
    """Symmetric matrices ``(M, K, K)`` as vectors ``(M, K (K + 1) / 2)``, row by row from the diagonal on.

    Elements beside the diagonal are taken as they are, as in the paper; times the square root of 2 they would keep
    the inner product of the matrices.
    """
    rows, columns = torch.triu_indices(matrices.shape[1], matrices.shape[2], device=matrices.device)
    return matrices[:, rows, columns]


def _squared(matrices: Tensor) -> Tensor:
    """``X^T X`` of matrices ``(M, P, K)``."""
    return matrices.mT @ matrices
