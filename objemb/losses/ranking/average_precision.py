"""Average precision itself, made differentiable: the ranking of a whole batch is trained at once."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from objemb import checks
from objemb.losses.ranking.base import RankingBatch, RankingLoss
from objemb.registry import plugin

#: Replaces a sum of weights of zero in a division of zero.
TINY = 1e-12


@plugin
class AveragePrecision(RankingLoss):
    """1 - mAP of all items of a batch, each a query for the others, with average precision quantised by similarity.

    Revaud, Almazan, Rezende, de Souza, "Learning with average precision: training image retrieval with a listwise
    loss", ICCV 2019, section 3. Items without another item of their identity are no queries, but are ranked. The query
    itself is not ranked, as in evaluation, nor is a second copy of it.

    The larger the batch, the closer it is to the ranking of the data set: see ``chunk`` of the task ``rank``, with
    which a batch need not fit into memory.

    Args:
        bins: M, number of bins of the similarity, whose centres are evenly spaced from 1 to -1. The paper has 20, for
            batches of thousands. Items that share no bin with others do not feel each other's rank, so that batches of
            some dozens learn faster with 5 to 10.
    """

    needs_negatives: ClassVar[bool] = False

    def __init__(self, *, bins: int = 20) -> None:
        self.bins = checks.whole("bins", bins, 2)

    def loss(self, batch: RankingBatch) -> Tensor:
        """See :meth:`RankingLoss.loss`."""
        vectors = torch.cat([batch.queries, batch.positives, batch.negatives]).float()
        ranked = batch.items[:, None] != batch.items[None]
        relevant = ranked & (batch.labels[:, None] == batch.labels[None])
        asking = relevant.any(dim=1)
        if not bool(asking.any()):
            return batch.nothing()
        precisions = quantised_average_precision(
            (vectors @ vectors.T)[asking], relevant[asking], ranked[asking], self.bins
        )
        return 1 - precisions.mean()


def quantised_average_precision(similarities: Tensor, relevant: Tensor, ranked: Tensor, bins: int) -> Tensor:
    """Average precision over bins of similarity (Revaud et al. 2019, section 3).

    A similarity s belongs to the bins of the centres ``b_m = 1 - (m - 1) d``, ``d = 2 / (M - 1)``, with the weight
    ``max(0, 1 - |s - b_m| / d)``: to the two nearest ones, with weights that sum to 1. With the weights of the relevant
    items r_m and of all ranked items a_m, average precision is ``sum_m (sum_{k <= m} r_k / sum_{k <= m} a_k) r_m / R``,
    where R is the number of relevant items. Only the two bins of an item are stored, so that memory grows with the
    number of similarities, and not with that of bins.

    Args:
        similarities: float ``(Q, N)``, -1 to 1.
        relevant: bool ``(Q, N)``: at least one in each row.
        ranked: bool ``(Q, N)``: the items that count; relevant ones are among them.
        bins: M, at least 2.

    Returns:
        float32 ``(Q,)``, above 0, at most 1; differentiable.
    """
    places = ((1 - similarities.float()) * ((bins - 1) / 2)).clamp(0, bins - 1)
    lower = places.detach().floor().clamp_max(bins - 2).long()
    upper_share = places - lower

    def histogram(counted: Tensor) -> Tensor:
        weights = counted.to(places)
        sums = places.new_zeros(len(places), bins).scatter_add(1, lower, (1 - upper_share) * weights)
        return sums.scatter_add(1, lower + 1, upper_share * weights)

    hits, all_items = histogram(relevant), histogram(ranked)
    precisions = hits.cumsum(dim=1) / all_items.cumsum(dim=1).clamp_min(TINY)
    return (precisions * hits).sum(dim=1) / relevant.sum(dim=1)
