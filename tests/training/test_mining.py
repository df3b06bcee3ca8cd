from __future__ import annotations

import pytest
import torch
from torch import Tensor

from objemb.ops.tensors import l2
from objemb.training.mining import hardest_negatives


def slowly(queries: Tensor, of_queries: Tensor, pool: Tensor, of_pool: Tensor, count: int) -> list[list[int]]:
    """Down the ranked pool, one item after the other."""
    found = []
    for query, own in zip(queries, of_queries.tolist(), strict=True):
        taken, chosen = {own}, []
        for row in (pool @ query).argsort(descending=True, stable=True).tolist():
            if int(of_pool[row]) not in taken and len(chosen) < count:
                taken.add(int(of_pool[row]))
                chosen.append(row)
        found.append(chosen + [-1] * (count - len(chosen)))
    return found


@pytest.mark.parametrize("count", [1, 3, 6])
def test_as_the_slow_way(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    queries, pool = (l2(torch.randn(n, 4, generator=generator)) for n in (9, 40))
    of_queries, of_pool = (torch.randint(5, (n,), generator=generator) for n in (9, 40))
    found = hardest_negatives(queries, of_queries, pool, of_pool, count)
    assert found.tolist() == slowly(queries, of_queries, pool, of_pool, count)
    if count == 6:
        assert (found[:, 4:] == -1).all(), "there are four other instances"


def test_by_hand() -> None:
    pool = torch.tensor([[1.0, 0], [0.9, 0.1], [0.8, 0.2], [0, 1], [0.9, 0.1]])
    instances = torch.tensor([0, 1, 1, 2, 3])
    found = hardest_negatives(torch.tensor([[1.0, 0]]), torch.tensor([0]), pool, instances, 3)
    assert found.tolist() == [[1, 4, 3]], "of instance 1 the nearest only; of equals the first"


def test_nothing() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    one = torch.tensor([0])
    assert hardest_negatives(torch.ones(1, 2), one, torch.zeros(0, 2), none, 2).tolist() == [[-1, -1]]
    assert hardest_negatives(torch.zeros(0, 2), none, torch.ones(1, 2), one, 2).shape == (0, 2)
    assert hardest_negatives(torch.ones(1, 2), one, torch.ones(3, 2), torch.zeros(3).long(), 1).tolist() == [[-1]]


def test_the_pool_is_left_as_it_is() -> None:
    pool = torch.eye(3)
    hardest_negatives(pool, torch.arange(3), pool, torch.arange(3), 2)
    assert torch.equal(pool, torch.eye(3))
