"""Triplets: a query is closer to its positive than to its negative, by a margin."""

from __future__ import annotations

from torch import Tensor

from objemb import checks
from objemb.losses.ranking.base import RankingBatch, RankingLoss, triplets
from objemb.registry import plugin


@plugin
class Triplet(RankingLoss):
    """``1/2 max(0, m + |q - p|^2 - |q - n|^2)``, mean over the triplets (q, p, n).

    Each positive of a query forms a triplet with each of its negatives.

    Gordo et al., "Deep image retrieval", ECCV 2016, equation 1. For unit vectors it is ``max(0, m/2 + <q,n> - <q,p>)``.

    Args:
        margin: m.
    """

    def __init__(self, *, margin: float = 0.1) -> None:
        self.margin = checks.positive("margin", margin)

    def loss(self, batch: RankingBatch) -> Tensor:
        """See :meth:`RankingLoss.loss`."""
        positives, negatives = triplets(batch)
        if not len(positives):
            return batch.nothing()
        queries = batch.queries.float()
        near = (queries[batch.positive_owners] - batch.positives.float()).square().sum(dim=1)[positives]
        far = (queries[batch.negative_owners] - batch.negatives.float()).square().sum(dim=1)[negatives]
        return ((self.margin + near - far).clamp_min(0) / 2).mean()
