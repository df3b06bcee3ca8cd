from __future__ import annotations

import pytest
import torch

from objemb.evaluation.instances import instance_retrieval
from objemb.losses.ranking.average_precision import AveragePrecision, quantised_average_precision
from objemb.losses.ranking.base import RankingBatch
from objemb.ops.tensors import l2
from tests.losses.ranking.made import made


def items(vectors: torch.Tensor, labels: list[int], numbers: list[int] | None = None) -> RankingBatch:
    """A batch of queries alone."""
    nothing, none = vectors[:0], torch.zeros(0, dtype=torch.int64)
    numbered = torch.arange(len(labels)) if numbers is None else torch.tensor(numbers)
    return RankingBatch(vectors, nothing, none, nothing, none, torch.tensor(labels), numbered)


def test_two_bins_by_hand() -> None:
    """M = 2: the centres are 1 and -1, and a similarity s has the weights (1 + s) / 2 and (1 - s) / 2."""
    similarities = torch.tensor([[0.6, 0.2]])
    found = quantised_average_precision(
        similarities, torch.tensor([[True, False]]), torch.tensor([[True, True]]), bins=2
    )
    first = 0.8 / (0.8 + 0.6) * 0.8
    second = 1 / 2 * 0.2
    assert found.item() == pytest.approx(first + second)


def test_the_formula_bin_by_bin() -> None:
    torch.manual_seed(0)
    similarities = torch.rand(4, 30) * 2 - 1
    relevant = torch.rand(4, 30) < 0.3
    ranked = relevant | (torch.rand(4, 30) < 0.8)
    bins = 7
    width = 2 / (bins - 1)
    for query in range(4):
        hits = everything = slow = 0.0
        for m in range(bins):
            weights = (1 - (similarities[query] - (1 - m * width)).abs() / width).clamp_min(0)
            share = float((weights * relevant[query]).sum())
            hits, everything = hits + share, everything + float((weights * ranked[query]).sum())
            slow += hits / max(everything, 1e-12) * share / int(relevant[query].sum())
        found = quantised_average_precision(
            similarities[query : query + 1], relevant[query : query + 1], ranked[query : query + 1], bins
        )
        assert found.item() == pytest.approx(slow, abs=1e-5)


def test_with_many_bins_it_is_the_average_precision_of_the_ranking() -> None:
    """Where no two items share a bin: precision at each relevant rank, and not between two, as evaluation has it."""
    similarities = torch.tensor([[0.9, 0.5, 0.1, -0.3, -0.7]])
    relevant = torch.tensor([[True, False, True, False, True]])
    found = quantised_average_precision(similarities, relevant, torch.ones(1, 5, dtype=torch.bool), bins=41)
    assert found.item() == pytest.approx((1 / 1 + 2 / 3 + 3 / 5) / 3, abs=1e-5)


def test_a_perfect_ranking_has_no_loss_and_a_turned_one_has() -> None:
    apart = torch.eye(3).repeat_interleave(2, dim=0)
    labels = [0, 0, 1, 1, 2, 2]
    assert AveragePrecision().loss(items(apart, labels)).item() == pytest.approx(0, abs=1e-6)
    assert AveragePrecision().loss(items(apart, [0, 1, 1, 2, 2, 0])).item() > 0.5


def test_neither_the_query_nor_a_copy_of_it_is_ranked() -> None:
    """Item 7 occurs twice: that both are alike is no success."""
    vectors = torch.tensor([[1.0, 0], [1.0, 0], [0, 1], [1.0, 0]])
    loss = AveragePrecision(bins=3).loss(items(vectors, [0, 0, 0, 1], [7, 7, 8, 9]))
    # both copies of 7: item 8 is second behind 9, precision 1/2; item 8: the two copies tie with 9, precision 2/3
    assert loss.item() == pytest.approx(1 - (1 / 2 + 1 / 2 + 2 / 3) / 3, abs=1e-5)


def test_an_item_without_a_partner_is_ranked_and_no_query() -> None:
    vectors = torch.tensor([[1.0, 0], [1.0, 0], [0, 1]])
    assert AveragePrecision().loss(items(vectors, [0, 0, 1])).item() == pytest.approx(0, abs=1e-6)
    alone = items(vectors.requires_grad_(), [0, 1, 2])
    loss = AveragePrecision().loss(alone)
    loss.backward()
    assert loss.item() == 0


def test_following_the_gradient_improves_the_ranking() -> None:
    torch.manual_seed(0)
    vectors = torch.randn(24, 6, requires_grad=True)
    labels = [n // 4 for n in range(24)]
    photos = torch.arange(24)

    def measured() -> float:
        return instance_retrieval(l2(vectors.detach()), torch.tensor(labels), photos)["mAP"]

    before, loss = measured(), AveragePrecision(bins=5)
    optimizer = torch.optim.Adam([vectors], lr=0.1)
    for _ in range(100):
        optimizer.zero_grad()
        loss.loss(items(l2(vectors), labels)).backward()
        optimizer.step()
    assert before < 0.5
    assert measured() > 0.95


def test_similarities_beyond_one_by_rounding() -> None:
    given = made()
    longer = RankingBatch(
        given.queries * 1.001, *(getattr(given, name) for name in list(given.__dataclass_fields__)[1:])
    )
    assert torch.isfinite(AveragePrecision().loss(longer))


def test_bad_values_are_named() -> None:
    with pytest.raises(ValueError, match=r"bins: expected .*, found 1"):
        AveragePrecision(bins=1)
