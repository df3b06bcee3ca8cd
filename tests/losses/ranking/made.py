"""Batches for tests of ranking losses."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb.losses.ranking.base import RankingBatch
from objemb.ops.tensors import l2


def batch(
    queries: Tensor,
    positives: Tensor,
    negatives: Tensor,
    positive_owners: list[int] | None = None,
    negative_owners: list[int] | None = None,
) -> RankingBatch:
    """Query n has label n; by default positive n is its own, and all negatives are those of query 0. All items differ,
    and each negative is of an identity of its own."""
    mine = list(range(len(positives))) if positive_owners is None else positive_owners
    others = [0] * len(negatives) if negative_owners is None else negative_owners
    labels = [*range(len(queries)), *mine, *(100 + n for n in range(len(negatives)))]
    return RankingBatch(
        queries,
        positives,
        torch.tensor(mine, dtype=torch.int64),
        negatives,
        torch.tensor(others, dtype=torch.int64),
        torch.tensor(labels, dtype=torch.int64),
        torch.arange(len(labels)),
    )


def made(seed: int = 0) -> RankingBatch:
    """Three queries, five positives and four negatives: random unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    queries, positives, negatives = (l2(torch.randn(n, 5, generator=generator)) for n in (3, 5, 4))
    return batch(queries, positives, negatives, [0, 0, 1, 2, 2], [0, 2, 0, 1])
