"""Whitening learned from pairs of matching vectors.

Mikolajczyk and Matas, "Improving descriptors for fast tree matching by optimal linear projection", ICCV 2007; as used
by Radenovic, Tolias and Chum, "Fine-tuning CNN image retrieval with no human annotation", PAMI 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks

#: The smallest regularisation of the diagonal; it is multiplied by ten until the matrix is positive definite.
FIRST_REGULARISER = 1e-10


def whiten_within_pairs(vectors: Tensor, pairs: Tensor, ridge: float = 0.0) -> tuple[Tensor, Tensor]:
    """The projection that makes the variance of differences within pairs equal in all directions.

    ``C_S = mean (x_q - x_p)(x_q - x_p)^T`` over the pairs, ``P = chol(C_S)^-1``. If ``C_S`` is not positive definite,
    ``1e-10 I`` is added, multiplied by ten until it is.

    Args:
        vectors: float ``(N, D)``.
        pairs: int64 ``(P, 2)``: rows of a query and of its positive.
        ridge: Regularisation for few pairs: added to the diagonal of ``C_S``, as a share of its mean element.

    Returns:
        The mean of the queries of all pairs ``(D,)``, and P ``(D, D)``, both float64.

    Raises:
        ValueError: There are no pairs, rows do not exist, or the vectors of all pairs are equal.
    """
    checks.shape("pairs", pairs, (None, 2))
    checks.between("ridge", ridge, 0, 1e6)
    if len(pairs) == 0:
        raise ValueError("pairs: expected at least one, found none")
    if pairs.is_floating_point() or not 0 <= int(pairs.min()) <= int(pairs.max()) < len(vectors):
        raise ValueError(f"pairs: expected row numbers from 0 to {len(vectors) - 1}, found others")
    queries, positives = (vectors[rows].double() for rows in pairs.T)
    differences = queries - positives
    scatter = differences.T @ differences / len(pairs)
    if not bool(scatter.any()):
        raise ValueError(f"pairs: expected some that differ, found {len(pairs)} of equal vectors")
    scatter.diagonal().add_(ridge * scatter.diagonal().mean())
    lower = _cholesky(scatter)
    inverse = torch.linalg.solve_triangular(lower, torch.eye(len(lower)).to(lower), upper=False)
    return queries.mean(dim=0), inverse


def _cholesky(matrix: Tensor) -> Tensor:
    """The lower triangular factor of a symmetric matrix, regularised until it is positive definite."""
    added = 0.0
    while True:
        factor: Tensor
        factor, failed = torch.linalg.cholesky_ex(matrix + added * torch.eye(len(matrix)).to(matrix))
        if not bool(failed):
            return factor
        added = max(FIRST_REGULARISER, 10 * added)
