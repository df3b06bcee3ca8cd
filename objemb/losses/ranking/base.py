"""The contract of a ranking loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from objemb import checks
from objemb.registry import Plugin


@dataclass(frozen=True, eq=False)
class RankingBatch:
    """The vectors of a step, all on one device.

    Attributes:
        queries: float ``(Q, D)``, unit vectors.
        positives: float ``(P, D)``: other items of the identities of queries.
        positive_owners: int64 ``(P,)``: the query that each positive belongs to.
        negatives: float ``(M, D)``: items of other identities than that of the query.
        negative_owners: int64 ``(M,)``: the query that each negative belongs to.
        labels: int64 ``(Q + P + M,)``: identities of queries, positives and negatives, in this order.
        items: int64 ``(Q + P + M,)``: numbers of the items; one that occurs twice has the same number.

    Raises:
        ValueError: The shapes do not fit each other.
    """

    queries: Tensor
    positives: Tensor
    positive_owners: Tensor
    negatives: Tensor
    negative_owners: Tensor
    labels: Tensor
    items: Tensor

    def __post_init__(self) -> None:
        dim = checks.shape("queries", self.queries, (None, None)).shape[1]
        checks.shape("positives", self.positives, (None, dim))
        checks.shape("positive_owners", self.positive_owners, (len(self.positives),))
        checks.shape("negatives", self.negatives, (None, dim))
        checks.shape("negative_owners", self.negative_owners, (len(self.negatives),))
        count = len(self.queries) + len(self.positives) + len(self.negatives)
        checks.shape("labels", self.labels, (count,))
        checks.shape("items", self.items, (count,))

    def nothing(self) -> Tensor:
        """A loss of 0 with a gradient of 0."""
        return (self.queries.sum() + self.positives.sum() + self.negatives.sum()).float() * 0


class RankingLoss(Plugin, ABC):
    """A loss of a step of the task ``rank``.

    Attributes:
        needs_negatives: Whether negatives must be given for each query; a loss that compares all items of a step with
            each other finds them among the items of other queries.
    """

    kind = "losses.ranking"
    needs_negatives: ClassVar[bool] = True

    @abstractmethod
    def loss(self, batch: RankingBatch) -> Tensor:
        """The loss, computed in float32.

        Args:
            batch: The vectors of a step; without queries, or with queries that have nothing to be compared with, the
                loss is 0, with a gradient of 0.

        Returns:
            A float32 scalar.
        """


def triplets(batch: RankingBatch) -> tuple[Tensor, Tensor]:
    """All pairs of a positive and a negative of the same query: their numbers, int64 ``(T,)`` each."""
    positives, negatives = torch.nonzero(batch.positive_owners[:, None] == batch.negative_owners[None], as_tuple=True)
    return positives, negatives
