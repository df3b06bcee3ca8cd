"""Ranking losses, with which positives become more similar to a query than negatives.

They take queries, a positive for each, and any number of negatives, each of which belongs to one query. They compute in
float32 and return a scalar; without queries it is a differentiable zero.
"""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks


def triplet_loss(
    queries: Tensor, positives: Tensor, negatives: Tensor, owners: Tensor, *, margin: float = 0.1
) -> Tensor:
    """``1/2 max(0, m + |q - p|^2 - |q - n|^2)``, mean over the triplets (q, p, n): one for each negative.

    Gordo et al., "Deep image retrieval", ECCV 2016, equation 1. For unit vectors it is ``max(0, m/2 + <q,n> - <q,p>)``.

    Args:
        queries: float ``(N, D)``.
        positives: float ``(N, D)``.
        negatives: float ``(M, D)``.
        owners: int64 ``(M,)``: the row of the query that each negative is of.
        margin: m.
    """
    queries, positives, negatives = _checked(queries, positives, negatives, owners)
    checks.positive("margin", margin)
    near = (queries - positives).square().sum(dim=1)[owners]
    far = (queries[owners] - negatives).square().sum(dim=1)
    return _mean((margin + near - far).clamp_min(0) / 2, queries, positives)


def contrastive_loss(
    queries: Tensor, positives: Tensor, negatives: Tensor, owners: Tensor, *, margin: float = 0.7
) -> Tensor:
    """``1/2 |q - p|^2`` of pairs that match, ``1/2 max(0, m - |q - n|)^2`` of pairs that do not; mean over all pairs.

    Radenovic et al., "CNN image retrieval learns from BoW: unsupervised fine-tuning with hard examples", ECCV 2016;
    their code sums over the pairs instead.

    Args:
        queries: float ``(N, D)``.
        positives: float ``(N, D)``.
        negatives: float ``(M, D)``.
        owners: int64 ``(M,)``: the row of the query that each negative is of.
        margin: m, the distance beyond which a negative has no loss.
    """
    queries, positives, negatives = _checked(queries, positives, negatives, owners)
    checks.positive("margin", margin)
    near = (queries - positives).square().sum(dim=1)
    apart = torch.linalg.vector_norm(queries[owners] - negatives, dim=1)
    return _mean(torch.cat([near, (margin - apart).clamp_min(0).square()]) / 2, queries, positives)


def _checked(queries: Tensor, positives: Tensor, negatives: Tensor, owners: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    checks.shape("queries", queries, (None, None))
    checks.shape("positives", positives, tuple(queries.shape))
    checks.shape("negatives", negatives, (None, queries.shape[1]))
    checks.shape("owners", owners, (len(negatives),))
    return queries.float(), positives.float(), negatives.float()


def _mean(terms: Tensor, queries: Tensor, positives: Tensor) -> Tensor:
    return terms.mean() if len(terms) else (queries.sum() + positives.sum()) * 0
