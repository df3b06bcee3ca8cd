from __future__ import annotations

import pytest
import torch

from objemb.losses.ranking.base import RankingLoss
from objemb.losses.ranking.contrastive import Contrastive
from objemb.losses.ranking.triplet import Triplet
from tests.losses.ranking.made import batch, made


def test_by_hand() -> None:
    query, positive = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
    negatives = torch.tensor([[0.8, 0.6], [-1.0, 0.0]])  # one nearer than the positive, one far beyond the margin
    # |q - p|^2 = 0.8, |q - n|^2 = 0.4 and 4
    found = Triplet(margin=0.1).loss(batch(query, positive, negatives))
    assert found.item() == pytest.approx((0.5 * (0.1 + 0.8 - 0.4) + 0) / 2)


def test_triplets_of_unit_vectors_are_about_scalar_products() -> None:
    given = made()
    slow = [
        max(0.0, 0.05 + float(given.queries[owner] @ n) - float(given.queries[owner] @ p))
        for p, owner in zip(given.positives, given.positive_owners.tolist(), strict=True)
        for n, other in zip(given.negatives, given.negative_owners.tolist(), strict=True)
        if owner == other
    ]
    assert len(slow) == 2 * 2 + 1 * 1 + 2 * 1
    assert Triplet(margin=0.1).loss(given).item() == pytest.approx(sum(slow) / len(slow), abs=1e-6)


def test_without_negatives_it_is_zero() -> None:
    given = made()
    assert Triplet().loss(batch(given.queries, given.positives[:3], torch.zeros(0, 5))).item() == 0


@pytest.mark.parametrize("loss", [Triplet(), Contrastive()])
def test_downhill_positives_come_closer_and_negatives_go(loss: RankingLoss) -> None:
    query = torch.tensor([[1.0, 0.0]])
    positive, negative = (torch.tensor([v], requires_grad=True) for v in ([0.8, 0.6], [0.8, -0.6]))
    loss.loss(batch(query, positive, negative)).backward()
    assert positive.grad is not None
    assert negative.grad is not None
    assert (-positive.grad @ query.T).item() > 0
    assert (-negative.grad @ query.T).item() < 0


def test_bad_values_are_named() -> None:
    given = made()
    with pytest.raises(ValueError, match=r"positives: expected shape \(any, 5\), found \(5, 4\)"):
        batch(given.queries, given.positives[:, :4], given.negatives)
    with pytest.raises(ValueError, match=r"negative_owners: expected shape \(4\), found \(3,\)"):
        batch(given.queries, given.positives, given.negatives, [0, 0, 1, 2, 2], [0, 2, 0])
    with pytest.raises(ValueError, match="margin"):
        Triplet(margin=0.0)
