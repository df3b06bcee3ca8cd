from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from objemb.losses.ranking import contrastive_loss, triplet_loss
from objemb.ops.tensors import l2

LOSSES = [triplet_loss, contrastive_loss]


def made(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries, positives, negatives = (l2(torch.randn(n, 5, generator=generator)) for n in (3, 3, 4))
    return queries, positives, negatives, torch.tensor([0, 2, 0, 1])


def test_triplet_by_hand() -> None:
    query, positive = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
    negatives = torch.tensor([[0.8, 0.6], [-1.0, 0.0]])  # one nearer than the positive, one far beyond the margin
    owners = torch.tensor([0, 0])
    # |q - p|^2 = 0.8, |q - n|^2 = 0.4 and 4
    found = triplet_loss(query, positive, negatives, owners, margin=0.1)
    assert found.item() == pytest.approx((0.5 * (0.1 + 0.8 - 0.4) + 0) / 2)


def test_contrastive_by_hand() -> None:
    query, positive = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
    negatives = torch.tensor([[0.8, 0.6], [-1.0, 0.0]])
    found = contrastive_loss(query, positive, negatives, torch.tensor([0, 0]), margin=0.7)
    assert found.item() == pytest.approx((0.5 * 0.8 + 0.5 * (0.7 - math.sqrt(0.4)) ** 2 + 0) / 3)


def test_triplets_of_unit_vectors_are_about_scalar_products() -> None:
    queries, positives, negatives, owners = made()
    slow = [
        max(0.0, 0.05 + float(queries[owner] @ negatives[i]) - float(queries[owner] @ positives[owner]))
        for i, owner in enumerate(owners.tolist())
    ]
    found = triplet_loss(queries, positives, negatives, owners, margin=0.1)
    assert found.item() == pytest.approx(sum(slow) / len(slow), abs=1e-6)


def test_contrastive_pair_by_pair() -> None:
    queries, positives, negatives, owners = made(1)
    slow = [0.5 * float((q - p).norm()) ** 2 for q, p in zip(queries, positives, strict=True)]
    slow += [
        0.5 * max(0.0, 1.2 - float((queries[owner] - negatives[i]).norm())) ** 2
        for i, owner in enumerate(owners.tolist())
    ]
    found = contrastive_loss(queries, positives, negatives, owners, margin=1.2)
    assert found.item() == pytest.approx(sum(slow) / len(slow), abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_pull_positives_and_push_negatives(loss) -> None:
    query = torch.tensor([[1.0, 0.0]])
    positive, negative = (torch.tensor([v]).requires_grad_() for v in ([0.8, 0.6], [0.8, -0.6]))
    loss(query, positive, negative, torch.tensor([0])).backward()
    assert positive.grad is not None
    assert negative.grad is not None
    assert (-positive.grad @ query.T).item() > 0, "downhill is nearer to the query"
    assert (-negative.grad @ query.T).item() < 0


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_vectors_have_a_finite_gradient(loss) -> None:
    vectors = torch.ones(1, 3, requires_grad=True)
    loss(vectors, vectors, vectors, torch.tensor([0])).backward()
    assert vectors.grad is not None
    assert torch.isfinite(vectors.grad).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_no_query_is_a_zero_with_a_gradient(loss) -> None:
    nothing = torch.zeros(0, 3, requires_grad=True)
    found = loss(nothing, nothing, nothing, torch.zeros(0, dtype=torch.int64))
    found.backward()
    assert found.item() == 0
    assert triplet_loss(*made()[:2], torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)).item() == 0, "no negative"


def test_bad_values_are_named() -> None:
    queries, positives, negatives, owners = made()
    with pytest.raises(ValueError, match=r"positives: expected shape \(3, 5\), found \(2, 5\)"):
        triplet_loss(queries, positives[:2], negatives, owners)
    with pytest.raises(ValueError, match=r"owners: expected shape \(4\), found \(3,\)"):
        triplet_loss(queries, positives, negatives, owners[:3])
    with pytest.raises(ValueError, match="margin"):
        contrastive_loss(queries, positives, negatives, owners, margin=0.0)
