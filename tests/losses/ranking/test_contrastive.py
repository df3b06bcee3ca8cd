from __future__ import annotations

import math

import pytest
import torch

from objemb.losses.ranking.contrastive import Contrastive
from tests.losses.ranking.made import batch, made


def test_by_hand() -> None:
    query, positive = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
    negatives = torch.tensor([[0.8, 0.6], [-1.0, 0.0]])
    found = Contrastive(margin=0.7).loss(batch(query, positive, negatives))
    assert found.item() == pytest.approx((0.5 * 0.8 + 0.5 * (0.7 - math.sqrt(0.4)) ** 2 + 0) / 3)


def test_pair_by_pair() -> None:
    given = made(1)
    slow = [
        0.5 * float((given.queries[owner] - p).norm()) ** 2
        for p, owner in zip(given.positives, given.positive_owners.tolist(), strict=True)
    ]
    slow += [
        0.5 * max(0.0, 1.2 - float((given.queries[owner] - n).norm())) ** 2
        for n, owner in zip(given.negatives, given.negative_owners.tolist(), strict=True)
    ]
    assert Contrastive(margin=1.2).loss(given).item() == pytest.approx(sum(slow) / len(slow), abs=1e-6)


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match="margin"):
        Contrastive(margin=0.0)
