"""Contrastive pairs: positives are close to their query, negatives at a distance."""

from __future__ import annotations

import torch
from torch import Tensor

from objemb import checks
from objemb.losses.ranking.base import RankingBatch, RankingLoss
from objemb.registry import plugin


@plugin
class Contrastive(RankingLoss):
    """``1/2 |q - p|^2`` of pairs that match, ``1/2 max(0, m - |q - n|)^2`` of pairs that do not; mean over all pairs.

    Radenovic et al., "CNN image retrieval learns from BoW: unsupervised fine-tuning with hard examples", ECCV 2016;
    their code sums over the pairs instead.

    Args:
        margin: m, the distance beyond which a negative has no loss.
    """

    def __init__(self, *, margin: float = 0.7) -> None:
        self.margin = checks.positive("margin", margin)

    def loss(self, batch: RankingBatch) -> Tensor:
        """See :meth:`RankingLoss.loss`."""
        if not len(batch.positives) + len(batch.negatives):
            return batch.nothing()
        queries = batch.queries.float()
        near = (queries[batch.positive_owners] - batch.positives.float()).square().sum(dim=1)
        apart = torch.linalg.vector_norm(queries[batch.negative_owners] - batch.negatives.float(), dim=1)
        return (torch.cat([near, (self.margin - apart).clamp_min(0).square()]) / 2).mean()
